"""Tests of syncagent, against real parts wherever there are any."""
