"""One run, from the sources to the published table."""
