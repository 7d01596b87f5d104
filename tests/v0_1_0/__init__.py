"""State directories, maps and configurations as syncagent 0.1.0 wrote them, which every later program has to read.

``state.tar.xz`` has a directory a scenario, and ``origin.json``: the commit of the program that wrote them, and how
the place was where they were written. ``expected.json`` is what that program itself printed about them. ``make``
wrote both; ``restore`` puts a scenario in another place; ``servers`` has what its sources ask.
"""
