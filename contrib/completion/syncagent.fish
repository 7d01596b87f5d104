# For fish, in share/fish/vendor_completions.d. The program prints the rest itself, so that the two always fit.
syncagent completion fish | source
