"""What the tests stand on: the real program, a real Postfix, and what to do where one is missing."""
