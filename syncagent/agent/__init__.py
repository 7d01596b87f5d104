"""The agent: a process that runs on schedule, when a local file changes, or on a signal, and reports its state.

Start with ``loop``: it does the runs, one at a time, for the tokens in a queue. ``schedule``, ``file_watch``
and ``signals`` put tokens. ``supervisor`` restarts dead watch threads, checks the clock and resets systemd's watchdog.
"""
