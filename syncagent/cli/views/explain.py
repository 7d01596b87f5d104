"""The view of `explain`: why an address is in the map, or not, and what Postfix replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import table
from syncagent.cli.views.history import change_text
from syncagent.errors import printable
from syncagent.state import messages

if TYPE_CHECKING:
    from syncagent.cli.explain import Explanation


def show(one: Explanation) -> None:
    """Print whether an address is in the map, the reasons, its sources and changes, and the lookups of Postfix.

    The last line is the verdict: the reply of Postfix.
    """
    headline, reasons = _headline(one)
    print(headline)
    if one.canonical not in {"", one.spelled}:
        print(f"spelled {printable(one.spelled)}")
    if one.said:
        table(
            ("SOURCE", "KEY", "LABEL"), [(said.source, printable(said.key), printable(said.label)) for said in one.said]
        )
    for reason in reasons:
        print(f"- {reason}")
    for at, change in one.happened:
        print(f"{messages.moment(at)} {change_text(change)}")
    if one.asked:
        print("Postfix looks up, in this order:")
        table(
            ("KEY", "THE MAP SAYS"),
            [(printable(asked.key), asked.found or asked.trouble or "nothing") for asked in one.asked],
        )
    for doubt in one.doubts:
        print(printable(doubt))
    print(one.verdict)


def _headline(one: Explanation) -> tuple[str, tuple[str, ...]]:
    """Return the first line and the reasons to show below it.

    The first line says whether the address is in the map. It also has the sources or the main reason.
    """
    address = printable(one.canonical or one.spelled)
    failure = next((row.trouble for row in one.asked if row.trouble), "")
    if failure:
        return f"cannot tell whether {address} is in the map: {failure}", one.reasons
    since = f" since {messages.moment(one.since)}{'' if one.happened else ', or longer'}" if one.since else ""
    headline = f"{address} is IN the map{since}." if one.published else f"{address} is NOT in the map."
    if one.published and one.said:
        sources = ", ".join(dict.fromkeys(entry.source for entry in one.said))
        return f"{headline} Listed by {sources}.", one.reasons
    main = "".join(f" {reason[:1].upper()}{reason[1:]}." for reason in one.reasons[:1])
    return headline + main, one.reasons[1:]
