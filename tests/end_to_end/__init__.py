"""The real program, its map in a real Postfix, and what a client hears."""
