"""What `doubt` prints: the domains that are in doubt, why, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import say, structure, table
from syncagent.state import messages

if TYPE_CHECKING:
    from syncagent.cli.doubt import Shown


def shown(found: Shown) -> None:
    """Print a row for each reason; an error of the table goes to standard error."""
    if found.doubts:
        table(
            ("DOMAIN", "IN DOUBT SINCE", "UNTIL", "WHY"),
            [
                (
                    doubt.domain,
                    messages.moment(doubt.since),
                    messages.moment(doubt.until) if doubt.until else "-",
                    messages.doubt_reason(doubt),
                )
                for doubt in found.doubts
            ],
        )
    else:
        print("no domain is in doubt: unknown recipients get 550")
    if found.addresses:
        print(f"{messages.counted(found.addresses, 'removed address')[:-1]}es in doubt by themselves")
    if found.pending:
        print("another run is under way: the next run ends what was cleared")
    if found.error:
        say(f"the doubt table is not in force: {found.error}")


def as_json(found: Shown) -> None:
    """Print the doubt as one JSON object."""
    structure(found)
