# ruff: noqa: INP001 - Python imports it by this name alone
"""First on PYTHONPATH, it has a Python child process live at the time of $CLOCK; see ``tests.support.clock``."""

import os

import time_machine

time_machine.travel(float(os.environ["CLOCK"]), tick=True).start()
