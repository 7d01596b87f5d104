"""The text that a verb prints: one module for each verb; `plan`, `sync` and `approve` share ``sync``.

A verb imports its view before it drops root's privileges: the user it becomes may be unable to read the program.
"""
