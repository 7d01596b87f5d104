"""Everything that knows Postfix: tables, main.cf, its programs."""
