"""The command: verbs, and the exit codes of sysexits.h."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from syncagent import __version__
from syncagent.errors import ExitCode, LayoutError, SyncagentError
from syncagent.files import streams

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from click.shell_completion import CompletionItem

    from syncagent.config.tables import Config
    from syncagent.sync.run import Options
    from syncagent.values.types import Domain, MapName

_SERVER = re.compile(r"(?:\[(?P<bracketed>[^][\s]+)\]|(?P<name>[^][:\s]+))(?::(?P<port>[0-9]{1,5}))?")
_EPILOG = """\b
EXIT STATUS (sysexits.h; where several apply: 73 before 75 before 65)
   0  done, or nothing to do
   1  `check` found problems
  64  the command line is wrong, or an ID is not that of a hold
  65  removals or a catch-all are held, or the first run is not complete
  70  a fault in syncagent itself
  73  the map could not be published; the old one is in place; `init`: a file is in the way
  75  a source failed (the rest was done), or the lock was not free; `status`: old data
  78  the configuration is wrong
 130  interrupted

\b
FILES
  /etc/syncagent/syncagent.toml     configuration; `syncagent schema` describes it
  /etc/syncagent/credentials/NAME   secrets, each readable by its owner alone
  /var/lib/syncagent/               the map, and in state/ what is remembered

\b
EXAMPLES
  syncagent init                    begin a configuration
  syncagent check                   are the configuration and every source right?
  syncagent plan                    what would change?
  syncagent sync                    do it
  syncagent approve k3x7q2          let removals go that were held
  syncagent run                     keep at it
  syncagent status                  how does it stand?
"""


def _config_option(command: Callable[..., object]) -> Callable[..., object]:
    return click.option(
        "--config",
        "config_file",
        envvar="SYNCAGENT_CONFIG",
        type=click.Path(readable=False, path_type=Path),
        default=Path("/etc/syncagent/syncagent.toml"),
        show_default=True,
        help="The configuration; $SYNCAGENT_CONFIG names another default.",
    )(command)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@_config_option
@click.version_option(__version__, message="syncagent %(version)s")
@click.pass_context
def command(context: click.Context, config_file: Path) -> None:
    """Keep a backup MX's list of valid recipients in step with where the truth lives.

    syncagent asks its sources (files, directories, a primary's API) which recipients exist, works out what
    changes, holds what is doubtful, and publishes a lookup table that it has read back through Postfix, for
    relay_recipient_maps in main.cf.

    Doubt never removes an address: a source that fails changes nothing of its own, and a whole but suspicious
    answer adds and does not remove.
    """
    context.obj = config_file


def _number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which no range keeps out
        raise click.BadParameter("expected seconds")
    return value


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_LOCK = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0, max=86400),
    callback=_number,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another run to end.",
)


def _typed(reading: str) -> Callable[[click.Context, click.Parameter, object], object]:
    """Give the callback that reads what was typed, by a function of the module ``init``, which is imported late."""

    def read(_context: click.Context, _option: click.Parameter, value: object) -> object:
        if not value:
            return value
        from syncagent.cli import init as beginning

        return getattr(beginning, reading)(value)

    return read


@command.command()
@click.option(
    "--map",
    "map_name",
    metavar="TYPE:PATH",
    callback=_typed("read_map"),
    help="The table to write; otherwise the one that relay_recipient_maps names, or one in /var/lib/syncagent.",
)
@click.option(
    "--domain",
    "domains",
    metavar="DOMAIN",
    multiple=True,
    callback=_typed("read_domains"),
    help="A domain to be a backup MX for, and once more for each; otherwise those of relay_domains.",
)
@click.option(
    "--config-directory",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Where main.cf is; otherwise where this Postfix looks for it.",
)
@click.pass_obj
def init(
    config_file: Path, map_name: MapName | None, domains: tuple[Domain, ...], config_directory: Path | None
) -> int:
    """Write a configuration to start with, from what postconf says of this host.

    It is written to --config FILE, whose directory is made if it is missing, with an empty list of recipients beside
    it: put addresses there, or name other sources; until then a sync publishes nothing, and says so. What is to be
    typed after that, such as postconf lines, is shown; nothing of it is done. No file is ever overwritten.

    On a terminal it asks, unless --map or --domain is given. Without Postfix on this host it works as well.
    """
    from syncagent.cli import init as beginning

    start = beginning.look(config_file, config_directory, _program(config_file))
    if map_name or domains:
        start.map, start.domains = map_name or start.map, domains or start.domains
    elif sys.stdin.isatty() and sys.stdout.isatty():
        beginning.ask(start)
    for line in beginning.write(start):
        print(line)
    return ExitCode.OK


@command.command()
@_JSON
@_LOCK
@click.pass_obj
def plan(config_file: Path, lock_timeout: float, *, as_json: bool) -> int:
    """Show what a sync would do.

    Fetches every source and compares, but writes nothing: no map, no snapshot, no cookie. Added and removed
    recipients are shown up to twenty each, with their counts.
    """
    from syncagent.sync.run import Options

    return _run(config_file, Options(write=False, lock_timeout=lock_timeout), as_json=as_json)


@command.command()
@click.option(
    "--accept-incomplete",
    is_flag=True,
    help="Publish a first map though a source failed or a domain has no recipient. An empty map is never published.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing while all is well: exit status 0, no notes.")
@_JSON
@_LOCK
@click.pass_obj
def sync(config_file: Path, lock_timeout: float, *, accept_incomplete: bool, quiet: bool, as_json: bool) -> int:
    """Do it once: fetch, compare, hold what is doubtful, publish.

    Adds always go through. Removals wait for a failing source, for the grace (limits.removal_grace), and for a
    person where they look like an accident; `syncagent approve` lets them go. postmap runs only when the map
    changed, or when it is not as syncagent left it.
    """
    from syncagent.sync.run import Options

    options = Options(accept_incomplete=accept_incomplete, lock_timeout=lock_timeout)
    return _run(config_file, options, as_json=as_json, quiet=quiet)


def _holds(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from syncagent.cli import completion as completing

    return completing.holds(context.find_root().params["config_file"], incomplete)


@command.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=_holds)
@_JSON
@_LOCK
@click.pass_obj
def approve(config_file: Path, ids: tuple[str, ...], lock_timeout: float, *, as_json: bool) -> int:
    """Let held removals go, then run a sync.

    Each ID is that of a hold, as shown by plan and sync. What lets go is exactly what was held under that ID
    and is still missing; what came later has an ID of its own. A hold because of a canary cannot be approved.
    """
    from syncagent.sync.run import Options

    return _run(config_file, Options(approve=ids, lock_timeout=lock_timeout), as_json=as_json)


@command.command("run")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log: `error` is what needs a person; `debug` has unchanged runs too.",
)
@click.pass_obj
def run_agent(config_file: Path, log_level: str) -> int:
    """Be the agent: run on schedule, and when a local file changes, until TERM or INT.

    HUP reads the configuration again (a bad one is refused, and the old one goes on), as does a change of its file;
    USR1 runs now. It logs to the standard error, and tells systemd how it is (Type=notify). A run by hand at the same
    time shares its lock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})  # until it is ready, and then they count
    with contextlib.suppress(KeyboardInterrupt):  # TERM or INT before it was ready; later on it ends by itself
        _be_agent(config_file, log_level)
    return ExitCode.OK


def _be_agent(config_file: Path, log_level: str) -> None:
    from syncagent import privileges
    from syncagent.agent import log, loop

    streams.stop_waiting()
    config = _load(config_file)
    logger = log.set_up(log_level)
    for note in privileges.become_least_owner(config):
        logger.info(note)
    loop.run(config, logger)


@command.command()
@_JSON
@click.pass_obj
def status(config_file: Path, *, as_json: bool) -> int:
    """Say how it stands: the last run, how old each source's data is, what is held, when the next run is due.

    It asks no source, and works whether the agent runs or not. Exit status 75 if what a source said is older than
    schedule.max_age, 73 if the last publishing failed, 65 if something is held and waits for a person: so it serves
    as a health check.
    """
    from syncagent import privileges
    from syncagent.cli import output as render
    from syncagent.state import status as standing

    config = _load(config_file)
    privileges.become_least_owner(config)
    now = standing.read(config, _program(config_file))
    if as_json:
        render.status_as_json(now)
    else:
        render.status(now)
    return now.exit_code


def _server(usual: int) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, int] | None]:
    """Give the callback that reads HOST[:PORT], an IPv6 address in brackets."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
        if value is None:
            return None
        found = _SERVER.fullmatch(value)
        port = int(found["port"] or usual) if found else 0
        if not found or port not in range(1, 1 << 16):
            raise click.BadParameter(f"expected HOST or HOST:PORT, an IPv6 address in brackets, not {value!r}")
        return found["bracketed"] or found["name"], port

    return read


@command.command()
@click.option(
    "--dns",
    metavar="SERVER[:PORT]",
    callback=_server(53),
    help="The DNS server to ask, by its address; otherwise those of this host.",
)
@click.option(
    "--smtp",
    metavar="HOST[:PORT]",
    callback=_server(25),
    help="Where the smtpd to talk to is; otherwise 127.0.0.1:25.",
)
@click.option("--offline", is_flag=True, help="Ask neither DNS nor SMTP.")
@_JSON
@click.pass_obj
def check(
    config_file: Path, dns: tuple[str, int] | None, smtp: tuple[str, int] | None, *, offline: bool, as_json: bool
) -> int:
    """Say whether everything is right: the configuration, the sources, Postfix, DNS, and what smtpd answers.

    Each source is asked for real. main.cf is compared with the configuration, both ways, and with the map. DNS has to
    have an MX record for each relay domain that leads to this host, behind the primary's. smtpd is asked by RCPT TO
    whether it takes recipients that the map has, and refuses an invented one and a foreign domain; no mail is sent.

    Every problem is shown at once: `error` is what loses mail, or takes what it should not; `warning` is doubtful, or
    good only for a while; `skipped` could not be looked at. Below each is what mends it, ready to be typed. Exit
    status 1 if there is an error. Nothing is written.
    """
    from syncagent import checks, privileges
    from syncagent.cli import output as render

    config = _load(config_file)
    progress = render.Progress()
    try:
        privileges.become_least_owner(config)
        checked = checks.run(config, checks.Options(_program(config_file), progress, dns, smtp, offline))
    except LayoutError as refusal:
        checked = checks.refused(refusal)
    progress.close()
    if as_json:
        render.structure(render.checked_fields(checked))
    else:
        render.checked(checked)
    return checked.exit_code


class _WithAddress(click.Command):
    """A command whose argument is an address, which may begin with a hyphen; no option has an @ in it."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put what has an @ where no option is looked for."""
        if "--" not in args:
            args = [*(one for one in args if "@" not in one), "--", *(one for one in args if "@" in one)]
        return super().parse_args(context, args)


@command.command(cls=_WithAddress)
@click.argument("address")
@_JSON
@click.pass_obj
def explain(config_file: Path, address: str, *, as_json: bool) -> int:
    """Say why an address is in or out.

    Which sources have it, under which key of their own, and since when; or why not: never seen, rejected, outside the
    domains, removed, held. Then what Postfix looks up, in its order, asked from the live map, and what it will answer,
    by main.cf as it is; restrictions, policy services and the like may refuse more.
    The address may have an extension, quotes, or either form of an internationalised domain.
    """
    from syncagent import privileges
    from syncagent.cli import explain as explaining
    from syncagent.cli import output as render

    config = _load(config_file)
    privileges.become_least_owner(config)
    explanation = explaining.explain(config, address, _program(config_file))
    if as_json:
        render.structure(explanation)
    else:
        render.explained(explanation)
    return ExitCode.OK


@command.command()
@click.option("--address", metavar="ADDRESS", help="Only what happened to this one, or to a domain.")
@click.option("--since", default="30d", show_default=True, help="From when on: 7d, or 2026-01-31T02:00.")
@_JSON
@click.pass_obj
def history(config_file: Path, address: str | None, since: str, *, as_json: bool) -> int:
    """Show what changed, when, and because of which source.

    Runs that changed nothing are not kept; a first import is one line. As JSON, every change is there; otherwise the
    first twenty of each run.
    """
    from syncagent import addresses as normalise
    from syncagent import privileges
    from syncagent.cli import output as render
    from syncagent.state import history as past

    config = _load(config_file)
    try:
        start = past.since(since)
        canonical = normalise.canonical if "@" in (address or "") else normalise.canonical_domain
        wanted = canonical(address) if address is not None else None
    except ValueError as error:  # an unusable address is one
        raise click.UsageError(str(error)) from None
    privileges.become_least_owner(config)
    shown = None if as_json or wanted else past.SHOWN
    runs = past.read(config, start, wanted, shown=shown)
    if as_json:
        render.structure(runs)
    else:
        render.past(runs)
    return ExitCode.OK


@command.command()
def schema() -> int:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from syncagent.config import json_schema as tables

    print(json.dumps(tables.schema(), indent=2))
    return ExitCode.OK


@command.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the script that has a shell complete verbs, options and IDs of holds.

    It is loaded by itself where the package's share/ is among the directories that the shell looks in. Elsewhere, in
    ~/.bashrc or ~/.zshrc, `eval "$(syncagent completion bash)"`, or zsh; in fish's config.fish,
    `syncagent completion fish | source`.
    """
    from syncagent.cli import completion as completing

    print(completing.script(command, shell))
    return ExitCode.OK


@command.group()
def recipe() -> None:
    """Work on a recipe, the description of a primary's API (see contrib/docs/recipes.md).

    A recipe is one of syncagent's own by its name, or a file of yours by its path, with a / in it.
    """


def _recipes(_context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from syncagent.cli import completion as completing

    return completing.recipes(incomplete)


@recipe.command("test")
@click.argument("file", metavar="FILE", shell_complete=_recipes)
@click.argument("fixture", type=click.Path(readable=False, path_type=Path))
def recipe_test(file: str, fixture: Path) -> int:
    """Follow a recipe through answers that were written down, without a network.

    FIXTURE is JSON: "answers" has, for each step, a list of the bodies of its pages (for a step with for_each, an
    object of such lists); "parameters" are the recipe's; "expected" are the addresses that are to come out. Every
    step is shown with its counts, and what comes out. Exit status 1 if that is not what was expected, 78 if the
    recipe is wrong, 75 if it fails on the answers, as it would on the primary's.
    """
    from syncagent.cli import output as render
    from syncagent.sources.http.recipe import dry_run

    file = str(Path(file).absolute()) if "/" in file or file.endswith(".toml") else file
    result = dry_run.dry_run(file, dry_run.read(fixture))
    render.dry_run_result(result)
    return ExitCode.PROBLEMS if result.missing or result.unexpected else ExitCode.OK


def _load(file: Path) -> Config:
    from syncagent.config import load as config

    return config.load(file)


def _run(config_file: Path, options: Options, *, as_json: bool, quiet: bool = False) -> int:
    from syncagent import privileges
    from syncagent.cli import output as render
    from syncagent.sync.run import sync_once

    config = _load(config_file)
    with streams.not_waiting():  # the lock is held, and a terminal may be stopped
        for note in privileges.become_least_owner(config):
            if not quiet:
                render.say(note)
        with contextlib.closing(render.Progress()) as progress:
            result = sync_once(config, options, progress)
    if as_json:
        render.as_json(result)
    elif result.exit_code or result.notes or not quiet:
        render.result(result, _program(config_file), steps=not options.write)
    return result.exit_code


def _program(config_file: Path) -> str:
    """Give the command line to type for another verb on the same configuration."""
    from syncagent.config import tables

    return tables.command(config_file)


def main() -> NoReturn:
    """Run the command and exit with its status."""
    streams.guard()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, every child that fails would have done well
    status = _main()
    streams.finish()
    sys.exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _main() -> int:
    try:
        status = command.main(prog_name="syncagent", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        streams.stop_waiting()
        print("syncagent: interrupted; nothing is half done", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except SyncagentError as error:
        for line in str(error).splitlines():
            print(f"syncagent: {line}", file=sys.stderr)
        return error.exit_code
    except Exception:  # noqa: BLE001 - the last resort: an exit status of its own, and the whole trace
        traceback.print_exc()
        return ExitCode.SOFTWARE
    return int(status or 0)
