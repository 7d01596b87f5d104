"""The view of `status --nagios`: one line and an exit status for Nagios, Icinga, Naemon and Checkmk.

See the Monitoring Plugins Development Guidelines, "Plugin Output for Nagios" and "Plugin Return Codes".
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from syncagent.cli.views.sources import failing
from syncagent.errors import ExitCode, printable
from syncagent.state import messages

if TYPE_CHECKING:
    from syncagent.state.status import Status

_MOST = 4000
"""Number of characters of text: older daemons cut the output at 4 KiB."""


class Level(IntEnum):
    """The exit status of a plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def level(status: Status) -> Level:
    """Return CRITICAL if the list is old or cannot be published, WARNING for what else needs a person or fails."""
    if status.exit_code not in {ExitCode.OK, ExitCode.HELD}:
        return Level.CRITICAL
    return Level.WARNING if status.alarms or failing(status) else Level.OK


def show(status: Status, now: float) -> Level:
    """Print the line of a status at time ``now``, and return the exit status."""
    found = level(status)
    print(line(found, _text(status), _performance(status, now)))
    return found


def show_error(text: str) -> Level:
    """Print the line of a status that cannot be read, and return the exit status."""
    print(line(Level.UNKNOWN, text))
    return Level.UNKNOWN


def line(found: Level, text: str, performance: str = "") -> str:
    """Return a line of output. A vertical bar in the text would begin the performance data."""
    flat = printable(" ".join(text.split())).replace("|", "/")[:_MOST]
    return f"SYNCAGENT {found.name} - {flat}{f' | {performance}' if performance else ''}"


def _text(status: Status) -> str:
    texts = [alarm.text for alarm in status.alarms] or failing(status)
    return "; ".join([messages.counted(status.recipients, "recipient"), *texts])


def _performance(status: Status, now: float) -> str:
    """Return the performance data: each ``NAME=VALUE[UNIT];WARNING;CRITICAL;MINIMUM``."""
    doubts = {domain for group in status.doubt.groups for domain in group.domains} if status.doubt else set()
    values = {
        "recipients": f"{status.recipients};;;0",
        "held": f"{sum(hold.count for hold in status.holds)};;;0",
        "rejected": f"{sum(source.rejected_held for source in status.sources)};;;0",
        "failing": f"{len(failing(status))};;;0",
        "domains_in_doubt": f"{len(doubts)};;;0",
    }
    if status.oldest_data:
        values["age"] = f"{max(0, round(now - status.oldest_data))}s;;;0"
    return " ".join(f"{name}={value}" for name, value in values.items())
