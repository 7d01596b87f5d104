"""What `doubt` prints: the lines of `status` about doubt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncagent.cli.output import say
from syncagent.cli.views.status import doubt_lines

if TYPE_CHECKING:
    from syncagent.cli.doubt import Shown


def show(shown: Shown) -> None:
    """Print a line for each reason with its domains; an error of the table goes to standard error."""
    for line in doubt_lines(shown.doubt, time.time()):
        print(line)
    if shown.pending:
        print("another run is under way: the next run ends what was cleared")
    if shown.doubt.error:
        say(f"the doubt table is not in force: {shown.doubt.error}")
