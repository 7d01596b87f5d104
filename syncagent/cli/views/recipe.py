"""The view of `recipe test`: the result of a recipe on recorded answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import say
from syncagent.cli.views.sources import show_steps
from syncagent.errors import printable

if TYPE_CHECKING:
    from syncagent.sources.http.recipe.dry_run import DryRunResult


def show(result: DryRunResult) -> None:
    """Print the result of a recipe on a fixture; differences from the expected addresses go to standard error."""
    show_steps("the recipe", result.answer.steps)
    for note in result.answer.notes:
        print(f"note: {note}")
    for address in result.addresses:
        print(f"  {printable(address)}{' (not expected)' if address in result.unexpected else ''}")
    for spelled, reason in result.rejected:
        print(f"  {printable(spelled)}: rejected: {reason}")
    for address in result.missing:
        say(f"{printable(address)} was expected, and did not come out")
    if result.unexpected:
        say(f"{len(result.unexpected)} came out that were not expected")
