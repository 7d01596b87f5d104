"""Interface to Postfix: main.cf, lookup tables, and the programs postconf, postmap and postfix."""
