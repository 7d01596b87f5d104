"""When to run: on schedule, when a local file changes, on a signal; and that whoever minds knows how it goes.

``loop`` runs ``sync_once``, one run at a time, for whatever its queue of tokens asks. Everything else only puts tokens
there: ``schedule``, ``watch``, and signals. ``keeper`` looks after them, and tells systemd that all is well.
"""
