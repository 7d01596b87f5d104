"""The command ``syncagent``: its verbs and exit statuses (sysexits.h)."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from syncagent import DEFAULT_CONFIG, __version__
from syncagent.cli.options import (
    FILE,
    JSON,
    LOCK,
    Verb,
    Verbs,
    VerbWithAddress,
    canonical,
    complete_domains,
    complete_holds,
    complete_recipes,
    domains_option,
    duration,
    server,
    typed,
)
from syncagent.errors import ExitCode, LayoutError, SyncagentError
from syncagent.files import children, streams

if TYPE_CHECKING:
    from types import FrameType

    from syncagent.config.tables import Config
    from syncagent.state.status import Status
    from syncagent.sync.run import Options
    from syncagent.values.types import Domain, MapName

_EPILOG = """\b
EXIT STATUS (sysexits.h; where several apply: 73 before 75 before 65)
   0  done, or nothing to do
   1  `check` found problems
  64  wrong command line, or an ID that no hold has
  65  removals or a catch-all are held, or the first run is incomplete
  70  internal error
  73  the map was not published, the old one stays; `init`: a file exists
  75  a source failed (the rest was done), or lock busy; `status`: old data
  78  wrong configuration
 130  interrupted

\b
FILES
  /etc/syncagent/syncagent.toml     configuration: `syncagent schema`
  /etc/syncagent/credentials/NAME   secrets, each readable by its owner alone
  /var/lib/syncagent/               the map, and the state in state/

\b
EXAMPLES
  syncagent init                    write a first configuration
  syncagent check                   check it, and every source
  syncagent plan                    show what would change
  syncagent sync                    change it
  syncagent approve k3x7q2mw        approve held removals
  syncagent doubt --all --for 4h    answer 450 to unknown recipients
  syncagent run                     run as the agent
  syncagent status                  show the state
"""


@click.group(
    cls=Verbs,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_file",
    envvar="SYNCAGENT_CONFIG",
    type=FILE,
    metavar="FILE",
    default=Path(DEFAULT_CONFIG),
    show_default=True,
    help="The configuration, before or after the verb; $SYNCAGENT_CONFIG names another default.",
)
@click.version_option(__version__, message="syncagent %(version)s")
@click.pass_context
def command(context: click.Context, config_file: Path) -> None:
    """Keep a backup MX's list of valid recipients in step with its sources.

    syncagent fetches the recipients from its sources (files, directories, a primary's API), computes the changes,
    holds doubtful ones, and publishes a lookup table for relay_recipient_maps in main.cf, after it has verified the
    table through Postfix.

    Doubt never removes an address: if a source fails, its recipients stay, and a complete but suspicious answer adds
    recipients and removes none. With postfix.doubt_map, unknown recipients meanwhile get 450 instead of 550.
    """
    context.obj = config_file


@command.command()
@click.option(
    "--map",
    "map_name",
    metavar="TYPE:PATH",
    callback=typed("read_map"),
    help="The table to publish; by default the one in relay_recipient_maps, else one in /var/lib/syncagent.",
)
@domains_option("A domain to relay for; may be repeated. By default those of relay_domains.")
@click.option(
    "--config-directory",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="The directory of main.cf; by default the one that this Postfix uses.",
)
@click.pass_obj
def init(
    config_file: Path, map_name: MapName | None, domains: tuple[Domain, ...], config_directory: Path | None
) -> int:
    """Write a first configuration, from what postconf says.

    The configuration is written to --config FILE, with an empty list of recipients beside it; a missing directory is
    created. Put addresses into the list, or configure other sources: until then a sync publishes nothing. The doubt
    table is made beside the map, if that directory exists: it must be there before main.cf names it. The commands to
    type next, such as postconf lines, are shown and not run. No file is ever overwritten.

    On a terminal it asks for map and domains, unless --map or --domain is given. Postfix need not be installed.
    """
    from syncagent.cli import init as beginning

    start = beginning.look(config_file, config_directory)
    if map_name or domains:
        start.map, start.domains = map_name or start.map, domains or start.domains
    elif sys.stdin.isatty() and sys.stdout.isatty():
        beginning.ask(start)
    for line in beginning.write(start):
        print(line)
    return ExitCode.OK


@command.command()
@JSON
@LOCK
@click.pass_obj
def plan(config_file: Path, lock_timeout: float, *, as_json: bool) -> int:
    """Show what a sync would change, and write nothing.

    Fetches every source and compares. No map, snapshot or cookie is written. Up to twenty added and removed recipients
    are shown, with their counts.
    """
    from syncagent.sync.run import Options

    return _run(config_file, Options(write=False, lock_timeout=lock_timeout), as_json=as_json)


@command.command()
@click.option(
    "--accept-incomplete",
    is_flag=True,
    help="Publish the first map even if a source failed or a domain has no recipient; an empty map is not published.",
)
@click.option(
    "-q",
    "--quiet",
    is_flag=True,
    help="Print what has begun, changed or ended, such as a hold or a failure, and once a day what stands; and notes.",
)
@JSON
@LOCK
@click.pass_obj
def sync(config_file: Path, lock_timeout: float, *, accept_incomplete: bool, quiet: bool, as_json: bool) -> int:
    """Run once: fetch, compare, hold doubtful changes, publish.

    Additions are always published. Removals wait until no source is failing, until the grace (limits.removal_grace, or
    confirm_after of the source) is over and the source was asked for everything once more, and for `syncagent approve`
    if they look like an accident. postmap runs only if the map changed, or is not as syncagent published it.
    """
    from syncagent.sync.run import Options

    options = Options(accept_incomplete=accept_incomplete, lock_timeout=lock_timeout)
    return _run(config_file, options, as_json=as_json, quiet=quiet)


@command.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=complete_holds)
@domains_option("Only recipients of this domain. May be repeated.", shell_complete=complete_domains)
@click.option(
    "--source", "sources", metavar="NAME", multiple=True, help="Only what this source listed last. May be repeated."
)
@click.option(
    "--export",
    type=click.File("x", encoding="utf-8", lazy=False),
    metavar="FILE",
    help="Write the held recipients to a new file instead, for `approve --set` here or on another host.",
)
@JSON
@click.pass_obj
def held(  # noqa: PLR0913 - the options of the verb
    config_file: Path,
    ids: tuple[str, ...],
    domains: tuple[Domain, ...],
    sources: tuple[str, ...],
    export: IO[str] | None,
    *,
    as_json: bool,
) -> int:
    """List what is held.

    Of each hold: its reasons, and the recipients that would go, with the time since when no source lists them, the
    source that had them last, and the DN of their entry if that is known; or the rejected entries with their places.
    Without ID up to twenty of each hold are shown, with ID all of it. Nothing is asked or changed.

    An ID that a hold had within the last seven days shows what was held under it and still is: that is what `approve`
    lets go. The exit status is 0 whether or not anything is held.
    """
    from syncagent import privileges
    from syncagent.cli import held as holding
    from syncagent.cli import output
    from syncagent.cli.views import held as view
    from syncagent.model import SAMPLE

    config = _load(config_file)
    privileges.become_least_owner(config)
    filters = holding.Filters(ids, tuple(map(str, domains)), sources)
    found = holding.held(config, filters, None if ids or as_json or export else SAMPLE)
    if export:
        export.writelines(f"{line}\n" for line in holding.export(found))
    if as_json:
        output.structure(found)
    elif not export:
        view.show(found)
    return ExitCode.OK


@command.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=complete_holds)
@click.option(
    "--set",
    "set_file",
    type=FILE,
    metavar="FILE",
    help="Approve the recipients in a file, as `held --export` here or on another host wrote it, instead of IDs.",
)
@click.option(
    "--now",
    "leave_now",
    is_flag=True,
    help="Let an approved relay domain leave at once, without the time (postfix.doubt_removed) with 450.",
)
@click.option(
    "--except",
    "excepted",
    metavar="ADDRESS",
    multiple=True,
    callback=canonical,
    help="Keep this recipient held, under an ID of its own that only a person ends. May be repeated.",
)
@JSON
@LOCK
@click.pass_obj
def approve(  # noqa: PLR0913 - the options of the verb
    config_file: Path,
    ids: tuple[str, ...],
    set_file: Path | None,
    excepted: tuple[str, ...],
    lock_timeout: float,
    *,
    leave_now: bool,
    as_json: bool,
) -> int:
    """Approve held removals, then run a sync.

    Each ID is that of a hold, as shown by plan and sync; `syncagent held ID` lists what it is of. What was held under
    that ID and is still missing is removed; later removals are judged anew by the limits. Approved rejected entries
    are not held again as long as they stay the same. Nobody can approve holds of the kinds canary, empty-map, clock,
    counts and doubt.

    With --set, exactly the recipients in the file go, as far as they are held; what is held with them stays, as with
    --except. So two backups that hold the same under different IDs need one decision.

    With postfix.doubt_map, a relay domain loses its recipients first. It leaves relay_domains after
    postfix.doubt_removed; until then they get 450.
    """
    from syncagent.sync.run import Options

    if bool(ids) == bool(set_file):
        raise click.UsageError("name the IDs of holds, or a file by --set")
    if set_file:
        from syncagent.cli import held as holding

        ids, excepted = holding.chosen(_load(config_file), set_file, excepted)
    options = Options(approve=ids, excepted=excepted, lock_timeout=lock_timeout, leave_now=leave_now)
    return _run(config_file, options, as_json=as_json)


@command.command()
@click.argument(
    "domains", metavar="[DOMAIN]...", nargs=-1, callback=typed("read_domains"), shell_complete=complete_domains
)
@click.option("--all", "is_all", is_flag=True, help="Every relay domain.")
@click.option("--for", "length", metavar="TIME", callback=duration, help="End it after this time, such as 4h or 2d.")
@click.option("--clear", is_flag=True, help="End what was begun by hand; other reasons stay.")
@JSON
@click.pass_obj
def doubt(  # noqa: PLR0913 - the options of the verb
    config_file: Path,
    domains: tuple[Domain, ...],
    length: float | None,
    *,
    is_all: bool,
    clear: bool,
    as_json: bool,
) -> int:
    """Answer 450 instead of 550 to unknown recipients of domains.

    Senders then try again, for half a day or more, instead of giving up. Use it before maintenance of the primary, or
    when a list may be wrong. Without DOMAIN and --all, nothing is changed: the domains that are in doubt are shown, by
    hand or for other reasons.

    It is in force at once; no source is asked and Postfix is not reloaded. If another run has the lock for more than 5
    seconds, the table is written beside it. With --clear, 550 is back at once where no other reason stands.

    It needs postfix.doubt_map, and the lines in main.cf that `check` shows.
    """
    from syncagent import privileges
    from syncagent.cli import doubt as by_hand
    from syncagent.cli import output
    from syncagent.cli.views import doubt as view

    config, who = _load(config_file), by_hand.person()
    for note in privileges.become_least_owner(config):
        output.say(note)
    request = by_hand.Request(tuple(domains), is_all=is_all, length=length, clear=clear, who=who)
    shown = by_hand.carry_out(config, request)
    if as_json:
        output.structure(shown)
    else:
        view.show(shown)
    return ExitCode.OK


@command.command("run")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least level to log: `error` needs a person, `debug` includes unchanged runs.",
)
@click.pass_obj
def run_agent(config_file: Path, log_level: str) -> int:
    """Run as the agent: on schedule, and when a local file changes.

    HUP, or a change of the configuration file, reloads the configuration; if the new configuration is wrong, the old
    one stays in force. USR1 starts a run, TERM and INT end the agent. It logs to standard error and reports its state
    to systemd (Type=notify). A `syncagent sync` by hand waits until the agent's run has ended.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})  # blocked until the agent handles them
    with contextlib.suppress(KeyboardInterrupt):  # TERM or INT before the agent handles them
        _run_agent(config_file, log_level)
    return ExitCode.OK


def _run_agent(config_file: Path, log_level: str) -> None:
    from syncagent import privileges
    from syncagent.agent import log, loop

    streams.stop_waiting()
    config = _load(config_file)
    logger = log.set_up(log_level)
    for note in privileges.become_least_owner(config):
        logger.info(note)
    loop.run(config, logger)


@command.command()
@click.option(
    "--nagios",
    is_flag=True,
    help="One line and an exit status for Nagios and its kind: 0 ok, 1 warning, 2 critical, 3 unknown.",
)
@JSON
@click.pass_obj
def status(config_file: Path, *, nagios: bool, as_json: bool) -> int:
    """Show the last run, the age of the data, holds and alarms.

    No source is asked, and the agent need not run. As a health check, the exit status is 75 if the data of a source is
    older than schedule.max_age, 73 if the last publishing failed, 65 if something is held for a person's approval.
    It shows which domains are in doubt: their unknown recipients get 450, so that doubt by itself is 0.

    With --nagios it is critical if the list is too old or cannot be published, a warning if something else needs a
    person or a source fails, and unknown if configuration or state cannot be read.
    """
    if nagios:
        return _nagios(config_file)
    from syncagent.cli.views import status as view

    now = _status(config_file)
    if as_json:
        view.show_json(now)
    else:
        view.show(now)
    return now.exit_code


@command.command()
@click.option(
    "--dns",
    metavar="SERVER[:PORT]",
    callback=server(53),
    help="The address of the DNS server to query; by default those of this host.",
)
@click.option(
    "--smtp",
    metavar="HOST[:PORT]",
    callback=server(25),
    help="The smtpd to connect to; by default 127.0.0.1:25.",
)
@click.option("--offline", is_flag=True, help="Query neither DNS nor SMTP.")
@JSON
@click.pass_obj
def check(
    config_file: Path, dns: tuple[str, int] | None, smtp: tuple[str, int] | None, *, offline: bool, as_json: bool
) -> int:
    """Check configuration, sources, Postfix, DNS and SMTP.

    Each source is fetched. main.cf is compared with the configuration, both ways, and with the map. DNS must have an
    MX record of each relay domain that leads to this host, behind the primary's (a higher preference number). smtpd is
    asked by RCPT TO whether it accepts recipients that the map has, and refuses an invented one and a foreign domain;
    no mail is sent.

    All problems are shown: an `error` loses mail or accepts what should be refused; a `warning` is doubtful, or will
    become a problem; `skipped` could not be checked. Below each is the remedy, ready to be typed. The exit status is 1
    if there is an error. Nothing is written.
    """
    from syncagent import checks, privileges
    from syncagent.cli import output
    from syncagent.cli.views import check as view

    config = _load(config_file)
    progress = output.Progress()
    try:
        privileges.become_least_owner(config)
        checked = checks.run(config, checks.Options(progress, dns, smtp, offline))
    except LayoutError as refusal:
        checked = checks.refused(refusal)
    progress.close()
    if as_json:
        output.structure(view.checked_fields(checked))
    else:
        view.show(checked)
    return checked.exit_code


@command.command(cls=VerbWithAddress)
@click.argument("address")
@JSON
@click.pass_obj
def explain(config_file: Path, address: str, *, as_json: bool) -> int:
    """Show why an address is published, or why not.

    It shows the sources that list the address, each with its key, and since when it is published; or the reason why it
    is not: never seen, rejected, outside the domains, removed, held. Below are the lookups of Postfix in the live map,
    in their order, and its reply by the present main.cf; restrictions, policy services and the like may refuse more.
    The address may have an extension, quotes, or either form of an internationalised domain.
    """
    from syncagent import privileges
    from syncagent.cli import explain as explaining
    from syncagent.cli import output
    from syncagent.cli.views import explain as view

    config = _load(config_file)
    privileges.become_least_owner(config)
    explanation = explaining.explain(config, address)
    if as_json:
        output.structure(explanation)
    else:
        view.show(explanation)
    return ExitCode.OK


@command.command()
@click.option("--address", metavar="ADDRESS", help="Only changes of this address or domain.")
@click.option(
    "--since",
    metavar="WHEN",
    default="30d",
    show_default=True,
    help="Only changes since then: 7d, or 2026-01-31T02:00.",
)
@JSON
@click.pass_obj
def history(config_file: Path, address: str | None, since: str, *, as_json: bool) -> int:
    """Show the changes of the map with times and sources, and doubt.

    Of doubt, the times when it began and ended for a domain are shown, and when the switch fired. Runs that changed
    nothing are not kept; a first import is one line. JSON has every change; otherwise the first twenty of each run are
    shown. In JSON an event has the fields of a run, and its kind as `status`.
    """
    from syncagent import addresses as normalise
    from syncagent import privileges
    from syncagent.cli import output
    from syncagent.cli.views import history as view
    from syncagent.state import history as past

    config = _load(config_file)
    try:
        start = past.since(since)
        canonical = normalise.canonical if "@" in (address or "") else normalise.canonical_domain
        wanted = canonical(address) if address is not None else None
    except ValueError as error:  # UnusableError is a subclass
        raise click.UsageError(str(error)) from None
    privileges.become_least_owner(config)
    shown = None if as_json or wanted else past.SHOWN
    runs = past.with_events(config, start, wanted, shown=shown)
    if as_json:
        output.structure(runs)
    else:
        view.show(runs)
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
    """Print the completion script of this command for a shell.

    Shells load it by themselves if the package's share/ is among the directories that they search. Otherwise put
    `eval "$(syncagent completion bash)"` into ~/.bashrc, the same with zsh into ~/.zshrc, or
    `syncagent completion fish | source` into fish's config.fish.
    """
    from syncagent.cli import completion as completing

    print(completing.script(command, shell))
    return ExitCode.OK


@command.group(cls=click.Group)
def recipe() -> None:
    """Test a recipe, the description of a primary's API.

    A recipe is named by its bare name if syncagent ships it, else by the path of its file, with a / in it. The language
    is described in contrib/docs/recipes.md.
    """


@recipe.command("test", cls=Verb)
@click.argument("file", metavar="FILE", shell_complete=complete_recipes)
@click.argument("fixture", type=click.Path(readable=False, path_type=Path))
def recipe_test(file: str, fixture: Path) -> int:
    """Run a recipe on recorded answers, without a network.

    FIXTURE is JSON: "answers" has, for each step, a list of the bodies of its pages (for a step with for_each, an
    object of such lists); "parameters" are the recipe's; "expected" are the addresses that must result. Each step is
    shown with its counts, and the resulting addresses. The exit status is 1 if they are not the expected ones, 78 if
    the recipe is wrong, 75 if it fails on the answers, as it would on the primary's.
    """
    from syncagent.cli.views import recipe as view
    from syncagent.sources.http.recipe import dry_run

    file = str(Path(file).absolute()) if "/" in file or file.endswith(".toml") else file
    result = dry_run.dry_run(file, dry_run.read(fixture))
    view.show(result)
    return ExitCode.PROBLEMS if result.missing or result.unexpected else ExitCode.OK


def _load(file: Path) -> Config:
    """Return the configuration of a file.

    Raises ConfigError if the file cannot be read or has problems. If it cannot be read and its path comes from
    $SYNCAGENT_CONFIG, the message names the variable.
    """
    from syncagent.config import load as config

    root = click.get_current_context().find_root()
    is_given = (
        root.params["config_file"] != file or root.get_parameter_source("config_file") != ParameterSource.ENVIRONMENT
    )
    return config.load(file, named_by="" if is_given else "$SYNCAGENT_CONFIG")


def _status(config_file: Path) -> Status:
    """Return the status. Raises ConfigError and LedgerError."""
    from syncagent import privileges
    from syncagent.state import status as standing

    config = _load(config_file)
    privileges.become_least_owner(config)
    return standing.read(config)


def _nagios(config_file: Path) -> int:
    """Print the status as a plugin does, and return its exit status."""
    import time

    from syncagent.cli.views import nagios as view

    try:
        return view.show(_status(config_file), time.time())
    except SyncagentError as error:
        return view.show_error(str(error))


def _run(config_file: Path, options: Options, *, as_json: bool, quiet: bool = False) -> int:
    from syncagent import privileges
    from syncagent.cli import output
    from syncagent.cli.views import quiet as quiet_view
    from syncagent.cli.views import sync as view
    from syncagent.sync.run import run_once

    config = _load(config_file)
    with streams.not_waiting():  # a stopped terminal must not block the holder of the lock
        for note in privileges.become_least_owner(config):
            if not quiet:
                output.say(note)
        with contextlib.closing(output.Progress()) as progress:
            result = run_once(config, options, progress)
    if as_json:
        output.structure(result)
    elif quiet:
        quiet_view.show(result, config)
    else:
        view.show(result, config, steps=not options.write)
    return result.exit_code


def main() -> NoReturn:
    """Run the command and exit with its status."""
    streams.guard()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup(1)
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited SIG_IGN would hide the failures of children
    status = _main()
    streams.finish()
    sys.exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    children.interrupt(KeyboardInterrupt())


def _main() -> int:
    try:
        status = command.main(prog_name="syncagent", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        children.kill_all()
        streams.stop_waiting()
        print("syncagent: interrupted; nothing is half done", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except SyncagentError as error:
        for line in str(error).splitlines():
            print(f"syncagent: {line}", file=sys.stderr)
        return error.exit_code
    except Exception:  # noqa: BLE001 - last resort: a traceback and an exit status of its own
        traceback.print_exc()
        return ExitCode.SOFTWARE
    return int(status or 0)
