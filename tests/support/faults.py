"""What happens in a month: each function is an event of ``tests.support.month``, and arranges for its end."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tests.support.month import ALL, CONFIGURED, HOUR, MINUTE, SOURCES, UNSETTLED, Host, Month, in_text

_BY_HAND = "by hand"
_GARBAGE = "\x01\x02 no list of recipients at all \x03\n" * 20


def _free_source(month: Month) -> str | None:
    """Return a source with which nothing is wrong."""
    host = month.host
    free = [name for name in SOURCES if not any(fault.name.startswith(name) for fault in host.oracle.faults)]
    return month.random.choice(sorted(free)) if free else None


def _change(host: Host, source: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Change what a source lists."""
    removed = set(remove)
    host.sources.listed[source] -= removed
    host.sources.listed[source] |= set(add)
    host.sources.write(source)
    host.oracle.drop(removed)


# --- sources


def _fails(month: Month, way: str) -> None:
    """A source cannot be read for some hours."""
    host, source = month.host, _free_source(month)
    if source is None:
        return
    domains, file = host.sources.domains(source), host.sources.file(source)
    host.sources.broken.add(source)
    if way in {"garbage", "empty"}:
        host.sources.put(source, _GARBAGE if way == "garbage" else "")
    else:
        file.unlink()
        if way == "directory" and source != "web":
            file.mkdir()
    host.fault(f"{source} fails", domains)
    host.run("sync")
    month.after(month.random.uniform(1, 8), f"{source} can be read again", partial(_mended, month, source))


def _mended(month: Month, source: str) -> None:
    month.host.sources.broken.discard(source)
    month.host.sources.write(source)
    month.host.mend(f"{source} fails")


def source_missing(month: Month) -> None:
    """The file of a source is gone, or its server answers 500."""
    _fails(month, "missing")


def source_is_directory(month: Month) -> None:
    """In the place of a source's file is a directory."""
    _fails(month, "directory")


def source_is_garbage(month: Month) -> None:
    """A source says something else."""
    _fails(month, "garbage")


def source_empty(month: Month) -> None:
    """A source lists nobody."""
    _fails(month, "empty")


def newcomers(month: Month) -> None:
    """A source lists more recipients."""
    host, source = month.host, _free_source(month)
    if source is not None:
        domain = month.random.choice(sorted(host.sources.domains(source)))
        _change(host, source, add=[f"{month.name()}@{domain}" for _ in range(month.random.randint(1, 4))])
        host.run("sync")


def leavers(month: Month) -> None:
    """A source no longer lists a few recipients, as it should be."""
    source = _free_source(month)
    if source is not None:
        _change(month.host, source, remove=month.victims(source, month.random.randint(1, 2)))
        month.host.run("sync")


def lost_in_error(month: Month) -> None:
    """A source loses a few recipients in error; they are removed, and come back within the time in doubt."""
    host, source = month.host, _free_source(month)
    if source is not None:
        lost = month.victims(source, month.random.randint(1, 2))
        _change(host, source, remove=lost)
        host.run("sync")
        host.clock.step(HOUR + 2 * MINUTE)
        host.run("sync")
        back = partial(_change, host, source, add=lost)
        month.after(month.random.choice([0.2, 2, 10, 30, 60]), f"{source} lists {lost} again", back)


def many_lost(month: Month) -> None:
    """A source loses many recipients of a domain: they are held, and come back, or a person lets them go."""
    host, source = month.host, _free_source(month)
    if source is None:
        return
    domain = min(host.sources.domains(source))
    there = sorted(one for one in host.sources.listed[source] - host.oracle.core if one.endswith(f"@{domain}"))
    lost = month.random.sample(there, len(there) // 2)
    if len(lost) <= 6 or not set(lost) <= host.oracle.claimed():
        return
    host.sources.listed[source] -= set(lost)
    host.sources.write(source)
    host.fault(f"{source} lost many", {domain})
    host.run("sync")
    if month.random.random() < 0.3:
        _let_go(month)
    if host.stands(f"{source} lost many"):  # nobody could approve it, or would
        month.after(month.random.uniform(1, 30), f"{source} has them back", partial(_back, month, source, lost))


def _back(month: Month, source: str, lost: list[str]) -> None:
    _change(month.host, source, add=lost)
    month.host.mend(f"{source} lost many")


def _let_go(month: Month) -> None:
    """Approve all that may be approved; a hold with a reason that nobody may overrule stands on."""
    host = month.host
    if host.last.get("plan") and (ids := host.holds()):
        month.approve(ids)


def domain_emptied(month: Month) -> None:
    """A source loses everybody of a domain."""
    host = month.host
    if _free_source_is(month, "hosted") and len(host.sources.domains("hosted")) > 1:
        lost = [address for address in host.sources.listed["hosted"] if address.endswith("@delta.example")]
        host.sources.listed["hosted"] -= set(lost)
        host.sources.write("hosted")
        host.fault("hosted lost many", {"delta.example"})
        host.run("sync")
        month.after(month.random.uniform(1, 12), "delta is back", partial(_back, month, "hosted", lost))


def _free_source_is(month: Month, name: str) -> bool:
    return not any(fault.name.startswith(name) for fault in month.host.oracle.faults)


def _lines(month: Month, name: str, source: str, lines: tuple[str, ...], domains: Iterable[str]) -> None:
    """Let a source have further lines for some hours."""
    host = month.host
    if not _free_source_is(month, source):
        return
    host.sources.more[source] = lines
    host.sources.write(source)
    host.fault(name, domains)
    host.run("sync")

    def end() -> None:
        host.sources.more.pop(source)
        host.sources.write(source)
        host.mend(name)

    month.after(month.random.uniform(0.5, 10), f"{name} ends", end)


def catch_all_held(month: Month) -> None:
    """A source lists a catch-all that no person has permitted."""
    _lines(month, "corp lists a catch-all", "corp", ("@alpha.example",), {"alpha.example"})


def unreadable_lines(month: Month) -> None:
    """A source has lines that cannot be read, while an address is missing."""
    host = month.host
    lost = month.victims("branch", 1)
    if lost and _free_source_is(month, "branch"):
        _change(host, "branch", remove=lost)
        _lines(month, "branch has odd lines", "branch", ("one two three", "<a@b"), {"beta.example"})


def canary_absent(month: Month) -> None:
    """A canary is in no source."""
    host, canary = month.host, min(month.host.oracle.core)
    source = canary.rstrip("0123456789@.abcdefghijklmnopqrstuvwxyz") or "branch"
    if not _free_source_is(month, source):
        return
    host.sources.listed[source].discard(canary)
    host.sources.write(source)
    host.fault(f"{source} canary", ALL)
    host.run("sync")

    def back() -> None:
        _change(host, source, add=[canary])
        host.mend(f"{source} canary")

    month.after(month.random.uniform(0.5, 5), "the canary is back", back)


# --- domains


def domain_comes(month: Month) -> None:
    """A source reports another domain, with its recipients."""
    host = month.host
    if _free_source_is(month, "hosted"):
        domain = f"{month.name()}.example"
        host.sources.reported.append(domain)
        _change(host, "hosted", add=[f"{name}@{domain}" for name in ("a", "b", "c")])
        host.run("sync")


def domain_leaves(month: Month) -> None:
    """A source no longer reports a domain; later a person lets it go."""
    host = month.host
    if not _free_source_is(month, "hosted") or len(host.sources.reported) < 2:
        return
    domain = host.sources.reported[-1]
    if domain not in host.oracle.domains:
        return
    host.sources.reported.remove(domain)
    people = {address for address in host.sources.listed["hosted"] if address.endswith(f"@{domain}")}
    host.sources.listed["hosted"] -= people
    host.sources.write("hosted")
    host.fault(f"leaving {domain}", {domain})
    host.run("sync")
    month.after(month.random.uniform(0.5, 10), f"{domain} may go", partial(_may_go, month, domain))


def _may_go(month: Month, domain: str) -> None:
    host = month.host
    host.run("sync")
    if host.last.get("status") not in {"published", "unchanged"}:
        month.after(1, f"{domain} may go", partial(_may_go, month, domain))
        return
    month.approve(host.holds())

    def gone() -> None:
        host.oracle.domains.pop(domain, None)
        host.mend(f"leaving {domain}")

    month.after(70, f"{domain} is gone", gone)


def doubt_by_hand(month: Month) -> None:
    """A person puts a domain in doubt, and ends that."""
    host = month.host
    domain = month.random.choice(CONFIGURED)
    name = f"{_BY_HAND} {domain}"
    if host.stands(name):
        return
    host.oracle.disturb()
    done = host.run("doubt", domain, "--for", "6h")
    assert done.code == 0, done
    host.fault(name, {domain}, seen=True)

    def clear() -> None:
        if host.stands(name):
            host.mend(name)
            host.run("doubt", domain, "--clear")

    month.after(month.random.uniform(0.5, 3), f"{domain} is cleared", clear)


# --- syncagent


def _something_changes(month: Month) -> None:
    month.random.choice([_adds, _adds, _removes])(month)


def _adds(month: Month) -> None:
    source = _free_source(month)
    if source is not None:
        domain = month.random.choice(sorted(month.host.sources.domains(source)))
        _change(month.host, source, add=[f"{month.name()}@{domain}"])


def _removes(month: Month) -> None:
    source = _free_source(month)
    if source is not None:
        _change(month.host, source, remove=month.victims(source, 1))


def killed(month: Month) -> None:
    """A run is killed in the middle, a few times."""
    for _ in range(month.random.randint(1, 3)):
        _something_changes(month)
        month.host.clock.step(MINUTE)
        month.host.run("sync", kill=month.random.randint(1, 30))
    month.look()


def _stops(month: Month, attempt: Callable[[], object]) -> None:
    """For hours, syncagent does not run, or cannot; the switch runs."""
    host = month.host
    for _ in range(month.random.choice([1, 2, 3, 3, 5])):
        host.clock.step(month.random.choice([0.3, 1, 2, 12]) * month.tick)
        _something_changes(month)
        attempt()
        month.look()


def stopped(month: Month) -> None:
    """Nobody starts it for up to some days."""
    _stops(month, lambda: None)
    month.host.run("sync")


def python_removed(month: Month) -> None:
    """Its interpreter is gone."""
    host = month.host

    def attempt() -> None:
        try:
            host.run("sync", python=str(host.directory / "no" / "python"))
        except FileNotFoundError:
            host.say("no Python")

    _stops(month, attempt)
    host.run("sync")


def configuration_broken(month: Month) -> None:
    """Its configuration cannot be read."""
    host = month.host
    host.config.write_text("[postfix\n", encoding="utf-8")
    _stops(month, lambda: host.run("sync"))
    host.configure()
    host.run("sync")


def state_unreadable(month: Month) -> None:
    """Its state directory is no directory for a while: every domain is in doubt at once."""
    host, away = month.host, month.host.tables / "state.away"
    host.oracle.disturb()
    host.state.rename(away)
    host.state.write_text("not a directory")
    _stops(month, lambda: host.run("sync"))
    host.state.unlink()
    away.rename(host.state)
    host.run("sync")


def state_lost(month: Month) -> None:
    """Its state is gone."""
    host = month.host
    host.oracle.lose_reasons(host.coming)
    shutil.rmtree(host.state)
    _begin_again(month)


def state_restored(month: Month) -> None:
    """Its state is one of some days ago."""
    host = month.host
    copy = month.old_copy()
    _restored(host, copy, ["state"])
    host.oracle.forget(host.in_map())  # the state does not know of what was removed since
    host.oracle.remove_again(in_text(copy / "relay_recipients") - host.in_map())
    _begin_again(month)


def _begin_again(month: Month) -> None:
    """Run after the state changed; a person lets go what is held by it."""
    host = month.host
    host.fault(UNSETTLED, ())
    host.run("sync")
    if len(host.oracle.faults) == 1 and host.last.get("plan") and (ids := host.holds()):
        month.approve(ids)
    month.look()


def disk_full(month: Month) -> None:
    """There is no room for a table or the state."""
    host = month.host
    if not host.small:
        postmap_fails(month)
        return
    filler = host.tables / "filler"
    host.oracle.disturb()
    _something_changes(month)
    _fill(filler)
    host.say(f"the disk is full: {filler.stat().st_size} octets")
    for _ in range(2):
        host.clock.step(2 * MINUTE)
        host.run("sync")
    month.look()
    filler.unlink()
    host.run("sync")


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


def postmap_fails(month: Month) -> None:
    """No table can be built."""
    host = month.host
    host.postmap_fails.touch()
    host.oracle.disturb()
    for _ in range(2):
        _something_changes(month)
        host.clock.step(2 * MINUTE)
        host.run("sync")
    month.look()
    host.postmap_fails.unlink()
    host.run("sync")


# --- the host


def _restored(host: Host, copy: Path, names: Iterable[str]) -> None:
    """Put files of a copy in their places, each under a new inode, as a restoration from a backup does."""
    for name in names:
        path, new, target = copy / name, host.tables / f"restored-{name}", host.tables / name
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
        elif path.exists():
            shutil.copy2(path, new)
            new.replace(target)
        else:
            target.unlink(missing_ok=True)


def rebooted(month: Month) -> None:
    """The host starts with the tables of a week ago, its state with them or not; the switch runs before Postfix."""
    host, copy = month.host, month.old_copy()
    names = {path.name for place in (host.tables, copy) for path in place.iterdir()} - {"state"}
    with_state = month.random.random() < 0.5
    host.postfix.kill()
    _restored(host, copy, [*sorted(names), *(["state"] if with_state else [])])
    host.say(f"restored {'with' if with_state else 'without'} the state")
    if with_state:
        host.oracle.forget(host.in_map())
    host.forget_domains()
    host.mend(*(fault.name for fault in host.oracle.faults if fault.name.startswith(_BY_HAND)))
    host.finished_at = host.finished_at[:1]
    host.switch("--boot", asks=False)
    host.postfix.start()
    host.reopen()
    host.probe(whole=True)
    _begin_again(month)


def clock_goes_back(month: Month) -> None:
    """The clock is set back by hours."""
    host = month.host
    host.oracle.disturb()
    host.clock.step(-month.random.uniform(0.1, 10) * HOUR)
    host.run("sync")
    month.look()


def clock_leaps(month: Month) -> None:
    """The clock is days ahead, and set right again."""
    host, days = month.host, month.random.uniform(1, 3) * 24 * HOUR
    host.clock.step(days)
    host.oracle.disturb()
    month.look()
    host.run("sync")
    host.clock.step(-days)
    month.look()
    host.run("sync")
    month.look()


EVENTS: tuple[Callable[[Month], None], ...] = (
    domain_comes,
    newcomers,
    leavers,
    source_missing,
    lost_in_error,
    killed,
    many_lost,
    stopped,
    source_empty,
    catch_all_held,
    domain_emptied,
    python_removed,
    disk_full,
    unreadable_lines,
    canary_absent,
    configuration_broken,
    source_is_garbage,
    state_lost,
    state_unreadable,
    postmap_fails,
    rebooted,
    domain_leaves,
    doubt_by_hand,
    source_is_directory,
    state_restored,
    clock_goes_back,
    clock_leaps,
)
"""Each kind of event, in an order in which each can happen."""
