"""The agent: runs on schedule, when a local file changes, or on a signal, and reports its state.

``loop`` does the runs, one at a time, for the tokens in a queue; ``schedule``, ``file_watch`` and signals put tokens.
``supervisor`` keeps these going and resets systemd's watchdog.
"""
