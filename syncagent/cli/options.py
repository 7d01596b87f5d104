"""Options, arguments and classes that the verbs are declared with."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_LONGEST = 3650 * 86400
"""Longest time that a person may put a domain in doubt for, in seconds."""
FILE = click.Path(readable=False, path_type=Path)
"""Type of a path. It is not examined while options are parsed: the error of opening it says more."""
_SERVER = re.compile(r"(?:\[(?P<bracketed>[^][\s]+)\]|(?P<name>[^][:\s]+))(?::(?P<port>[0-9]{1,5}))?")


def _use_config(context: click.Context, _option: click.Parameter, file: Path | None) -> None:
    if file is not None:
        context.obj = file


_CONFIG_OF_VERB = click.Option(
    ["--config"],
    type=FILE,
    metavar="FILE",
    expose_value=False,
    callback=_use_config,
    help="The configuration, as before the verb.",
)


class Verb(click.Command):
    """A verb, which accepts --config after its name as well. There it overrides a --config before the name."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the verb's parameters, with --config inserted before --help."""
        *own, last = super().get_params(ctx)
        return [*own, _CONFIG_OF_VERB, last]


class Verbs(click.Group):
    """The group of verbs: a command that is registered with it is a ``Verb``."""

    command_class = Verb


class VerbWithAddress(Verb):
    """A verb whose argument is an address, which may begin with a hyphen."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the verb, with those that contain @ moved behind ``--``, so that none is an option.

        The value of --config is not moved. If the words have a ``--`` already, they are parsed in their order.
        """
        if "--" not in args:
            after = dict(zip(args[1:], args, strict=False))
            addresses = [word for word in args if "@" in word and after.get(word) != "--config"]
            addresses = [word for word in addresses if not word.startswith("--config=")]
            args = [*(word for word in args if word not in addresses), "--", *addresses]
        return super().parse_args(context, args)


def _number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if math.isnan(value):  # FloatRange accepts NaN
        raise click.BadParameter("expected seconds")
    return value


JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
LOCK = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0, max=86400),
    callback=_number,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the lock of another run.",
)


def typed(reading: str) -> Callable[[click.Context, click.Parameter, object], object]:
    """Return a callback that parses an option's value with the function of ``cli.init`` named ``reading``.

    The module is imported only if the option is given. An empty value is returned as it is.
    """

    def read(_context: click.Context, _option: click.Parameter, value: object) -> object:
        if not value:
            return value
        from syncagent.cli import init as beginning

        return getattr(beginning, reading)(value)

    return read


def domains_option(help_text: str, **more: Any) -> Callable[[_Function], _Function]:  # noqa: ANN401 - those of option
    """Return the option --domain of a verb, which may be repeated."""
    return click.option(
        "--domain",
        "domains",
        metavar="DOMAIN",
        multiple=True,
        callback=typed("read_domains"),
        help=help_text,
        **more,
    )


def canonical(_context: click.Context, _option: click.Parameter, spelled: tuple[str, ...]) -> tuple[str, ...]:
    """Return the canonical forms of addresses. Raises click.BadParameter for one that has none."""
    if not spelled:
        return spelled
    from syncagent import addresses

    try:
        return tuple(dict.fromkeys(map(addresses.canonical, spelled)))
    except addresses.UnusableError as error:
        raise click.BadParameter(f"it {error}") from None


def server(usual: int) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, int] | None]:
    """Return a callback that parses HOST[:PORT] to (host, port); ``usual`` is the port if there is none.

    An IPv6 address must be in brackets. The callback raises click.BadParameter for anything else.
    """

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
        if value is None:
            return None
        match = _SERVER.fullmatch(value)
        port = int(match["port"] or usual) if match else 0
        if not match or port not in range(1, 1 << 16):
            raise click.BadParameter(f"expected HOST or HOST:PORT, an IPv6 address in brackets, not {value!r}")
        return match["bracketed"] or match["name"], port

    return read


def complete_holds(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the IDs of approvable holds that begin with ``incomplete``, for a shell."""
    from syncagent.cli import completion as completing

    return completing.holds(context.obj or context.find_root().params["config_file"], incomplete)


def complete_domains(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the relay domains that begin with ``incomplete``, for a shell."""
    from syncagent.cli import completion as completing

    return completing.domains(context.obj or context.find_root().params["config_file"], incomplete)


def complete_recipes(_context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the shipped recipes that begin with ``incomplete``, for a shell; without any, it completes a path."""
    from syncagent.cli import completion as completing

    return completing.recipes(incomplete)


def duration(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Return a time such as 4h in seconds, None if it is not given. Raises click.BadParameter if it is not a time."""
    if value is None:
        return None
    from syncagent.values.types import Duration

    try:
        seconds = float(Duration.parse(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not 0 < seconds <= _LONGEST:
        raise click.BadParameter(f"expected a time of more than 0s, and of {_LONGEST // 86400:.0f}d at most")
    return seconds
