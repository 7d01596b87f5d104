"""Which tests `make check` leaves out: those that take seconds, most of them to wait or for processes of their own.

`make check` runs what is left, `make test` all but what is marked ``proof``, and `make proof` that.
"""

SLOW: tuple[str, ...] = ()
"""Beginnings of names below tests/: whole directories, files, or tests of a file."""


def is_slow(name: str) -> bool:
    """True if the test of this name, `agent/test_x.py::test_y[z]`, is one of the slow ones."""
    return name.startswith(SLOW)
