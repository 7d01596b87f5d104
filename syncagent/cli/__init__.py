"""The command-line interface: verbs, their output, and shell completion."""
