"""What happens in a month: each function is an event of ``tests.support.month``, and arranges for its end."""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tests.support.month import (
    ALL,
    DAY,
    HOUR,
    LOST_MANY,
    MINUTE,
    STATE_NEW,
    UNSETTLED,
    WAITS,
    WINDOW,
    Copy,
    Fault,
    Host,
    Month,
    in_text,
)
from tests.support.month_directory import is_field

_BY_HAND = "by hand"


def _free_source(month: Month) -> str | None:
    """Return a source with which nothing is wrong."""
    host = month.host
    free = [
        name for name in host.sources.listed if not any(fault.name.startswith(name) for fault in host.oracle.faults)
    ]
    return month.random.choice(sorted(free)) if free else None


def _change(host: Host, source: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Change what a source lists."""
    removed = set(remove)
    host.sources.listed[source] -= removed
    host.sources.listed[source] |= set(add)
    host.sources.write(source)
    host.oracle.drop(removed, WAITS[source])


def _by_domain(addresses: Iterable[str]) -> Counter[str]:
    return Counter(address.rpartition("@")[2] for address in addresses)


# --- sources


def _fails(month: Month, way: str) -> None:
    """A source cannot be read for some hours."""
    host, source = month.host, _free_source(month)
    if source is None:
        return
    domains = host.sources.domains(source)
    host.sources.fail(source, way)
    host.fault(f"{source} fails", domains)
    host.run("sync")
    month.after(month.random.uniform(1, 8), f"{source} can be read again", partial(_mended, month, source))


def _mended(month: Month, source: str) -> None:
    month.host.sources.repair(source)
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
    domains = sorted(host.sources.domains(source))
    there = _touchable(month, source, domains[0])
    lost = month.random.sample(there, len(there) // month.random.choice([2, 3]))
    if len(lost) <= _FLOOR + 1:
        return
    held = {domains[0]}
    if len(domains) > 1 and (others := _touchable(month, source, domains[1])):  # held with them: the same answer
        lost.append(month.random.choice(others))
        held.add(domains[1])
    _lose(month, source, lost, held)


_FLOOR = 5
"""limits.removed_floor."""


def _touchable(month: Month, source: str, domain: str) -> list[str]:
    """Return the recipients of a domain that a source has and a finished run has heard of, but for the core."""
    host = month.host
    there = host.sources.listed[source] & host.oracle.claimed() & host.in_map() - host.oracle.core
    return sorted(address for address in there if address.endswith(f"@{domain}"))


def _lose(month: Month, source: str, lost: list[str], held: Iterable[str]) -> None:
    """Let a source lose recipients, all of which are held; they come back, or a person lets them go."""
    host = month.host
    host.sources.listed[source] -= set(lost)
    host.sources.write(source)
    host.oracle.hold(lost)
    host.fault(f"{source} lost many", held)
    host.run("sync")
    if month.random.random() < 0.3:
        _let_go(month)
    if host.stands(f"{source} lost many"):  # nobody could approve it, or would
        month.after(month.random.uniform(1, 30), f"{source} has them back", partial(_back, month, source, lost))


def half_lost(month: Month) -> None:
    """A source loses two of the few recipients of a domain: at least half."""
    host = month.host
    small = [domain for domain in host.sources.reported[1:] if len(_touchable(month, "hosted", domain)) == _FEW]
    if small and _free_source_is(month, "hosted"):
        _lose(month, "hosted", _touchable(month, "hosted", small[0])[:2], {small[0]})


_FEW = 3
"""Number of recipients of a domain that comes."""


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
        host.oracle.hold(lost)
        host.fault("hosted lost many", {"delta.example"})
        host.run("sync")
        month.after(month.random.uniform(1, 12), "delta is back", partial(_back, month, "hosted", lost))


def _free_source_is(month: Month, name: str) -> bool:
    return not any(fault.name.startswith(name) for fault in month.host.oracle.faults)


def _lines(month: Month, source: str, lines: tuple[str, ...], fault: Fault, lost: Iterable[str] = ()) -> None:
    """Let a source have further lines for some hours, and lack some recipients, which stay meanwhile."""
    host = month.host
    if not _free_source_is(month, source):
        return
    host.sources.more[source] = lines
    _lacks(host, source, lost)
    host.sources.write(source)
    host.oracle.begin(fault)
    host.run("sync")

    def end() -> None:
        host.sources.more.pop(source)
        host.sources.write(source)
        host.oracle.release(lost)
        host.mend(fault.name)

    month.after(month.random.uniform(0.5, 10), f"{fault.name} ends", end)


def _lacks(host: Host, source: str, lost: Iterable[str]) -> None:
    """Let a source no longer list recipients, who stay all the same."""
    host.sources.listed[source] -= set(lost)
    host.oracle.drop(lost, float("inf"))


def catch_all_held(month: Month) -> None:
    """A source lists a catch-all that no person has permitted."""
    _lines(month, "corp", ("@alpha.example",), Fault("corp lists a catch-all", frozenset({"alpha.example"})))


def unreadable_lines(month: Month) -> None:
    """A source has lines that cannot be read, while an address is missing that one of them may be."""
    fault = Fault("branch has odd lines", frozenset({"beta.example"}))
    _lines(month, "branch", ("one two three", "<a@b"), fault, month.victims("branch", 1))


def garbled_lines(month: Month) -> None:
    """Some lines of a source cannot be read any more: who stands in them stays."""
    host = month.host
    there = _touchable(month, "web", "gamma.example")
    if not _free_source_is(month, "web") or len(there) < _FEW:
        return
    garbled = month.random.sample(there, _FEW)
    host.sources.unreadable["web"] = set(garbled)
    host.sources.write("web")
    host.oracle.hold(garbled)
    host.fault("web has garbled lines", {"gamma.example"})
    host.run("sync")

    def end() -> None:
        host.sources.unreadable.pop("web")
        host.sources.write("web")
        host.mend("web has garbled lines")

    month.after(month.random.uniform(0.5, 30), "the lines can be read again", end)


# --- lying, stale and half-hidden sources


def _says(month: Month, source: str, text: str, fault: Fault, lost: Iterable[str] = ()) -> None:
    """Let a source say something else for some hours, and lack some recipients, which stay meanwhile."""
    host = month.host
    _lacks(host, source, lost)
    host.sources.broken.add(source)
    host.sources.put(source, text)
    host.oracle.begin(fault)
    host.run("sync")

    def end() -> None:
        host.sources.repair(source)
        host.oracle.release(lost)
        host.mend(fault.name)

    month.after(month.random.uniform(0.2, 10), f"{source} is itself again", end)


def _says_part(month: Month, source: str, lines: int) -> None:
    """Let a source say only its first lines, and wrongly so."""
    host, published = month.host, month.host.in_map()
    text = "".join(host.sources.text(source).splitlines(keepends=True)[:lines])
    lost = (host.sources.listed[source] - set(text.splitlines())) & published
    counts, sizes = _by_domain(lost), _by_domain(published)
    held = {domain for domain, count in counts.items() if count > _FLOOR and count * 8 > sizes[domain]}
    host.oracle.hold(lost, WAITS[source])
    host.oracle.hold(address for address in lost if address.rpartition("@")[2] in held)
    fault = Fault(f"{source} says a part: {LOST_MANY}", frozenset(held), may=frozenset(counts))
    _says(month, source, text, fault)


def _fails_by(month: Month, source: str, text: str) -> None:
    """Let a source say what cannot be an answer."""
    _says(month, source, text, Fault(f"{source} fails", month.host.sources.domains(source)))


_NEAR = 100
"""Number of octets at the end of a list: a cut there loses fewer recipients than any limit."""


def torn(month: Month) -> None:
    """A list without end line is cut anywhere, also between two lines."""
    host, source = month.host, month.random.choice(["corp", "branch"])
    if not _free_source_is(month, source):
        return
    text = host.sources.text(source)
    lines = text.count("\n")
    if month.random.random() < 0.4:
        _says_part(month, source, month.random.randrange(1, lines))
        return
    first = month.random.choice([1, len(text) - _NEAR])
    cut = month.random.choice([at for at in range(first, len(text)) if text[at - 1] != "\n"])
    _fails_by(month, source, text[:cut])


def half_by_http(month: Month) -> None:
    """A server answers 200 with half of the list, and its length."""
    if _free_source_is(month, "web"):
        _says_part(month, "web", len(month.host.sources.listed["web"]) // 2)


def not_modified(month: Month) -> None:
    """A server answers 304 to everything; who was missing before, and is listed again, stays."""
    host = month.host
    if not _free_source_is(month, "web"):
        return
    lost = month.victims("web", 1)
    _change(host, "web", remove=lost)
    host.run("sync")
    host.sources.unmodified = True
    _change(host, "web", add=lost)
    host.oracle.hold(lost)
    host.fault("web is not modified", may=host.sources.domains("web"))

    def end() -> None:
        host.sources.unmodified = False
        host.mend("web is not modified")

    month.after(month.random.uniform(1, 30), "web answers again", end)


def contradiction(month: Month) -> None:
    """A list lacks a line that its end line counts."""
    if _free_source_is(month, "hosted"):
        sources = month.host.sources
        lines = sources.text("hosted").splitlines(keepends=True)
        lines.pop(month.random.randrange(3, len(lines) - 1))
        _fails_by(month, "hosted", "".join(lines))


def older_again(month: Month) -> None:
    """A list that was made before the one that was read last is served again."""
    host = month.host
    if not _free_source_is(month, "hosted"):
        return
    earlier = min(host.sources.now, host.clock.now) - month.random.uniform(2, 20) * HOUR
    old = host.sources.text("hosted", made=earlier)
    _change(host, "hosted", add=[f"{month.name()}@delta.example"])
    host.run("sync")
    if host.last.get("status") in {"published", "unchanged"}:
        _fails_by(month, "hosted", old)


def outdated(month: Month) -> None:
    """A list expires: who is missing from it stays, and who is new in it comes."""
    host = month.host
    if not _free_source_is(month, "hosted"):
        return
    lost, come = month.victims("hosted", 1), f"{month.name()}@delta.example"
    sources = host.sources
    sources.listed["hosted"] = sources.listed["hosted"] - set(lost) | {come}
    domains, expires = sources.domains("hosted"), sources.now + HOUR / 2
    fault = Fault("hosted is outdated", frozenset(), may=domains)
    _says(month, "hosted", sources.text("hosted", expires=expires), fault, lost)
    host.clock.step(HOUR)
    fault.domains, fault.seen = domains, False
    host.run("sync")
    if host.last.get("status") in {"published", "unchanged"}:
        assert come in host.in_map(), "what is added to an outdated list is published"
        host.oracle.vouch([come])


# --- a directory


def unit_hidden(month: Month) -> None:
    """The account no longer sees a unit of the directory: fewer people than any limit, and nobody goes."""
    host = month.host
    _hides(month, "hidden", Fault("staff has a hidden unit", host.sources.domains("staff")))


def unit_unreadable(month: Month) -> None:
    """The account no longer sees the addresses of a unit: the answer contradicts itself."""
    host = month.host
    _hides(month, "unreadable", Fault("staff fails", host.sources.domains("staff")))


def _hides(month: Month, how: str, fault: Fault) -> None:
    host, staff = month.host, month.host.sources.staff
    if staff is None or not _free_source_is(month, "staff"):
        return
    host.sources.broken.add("staff")
    host.oracle.hold(filter(is_field, host.sources.listed["staff"]))
    staff.hide(how)
    host.oracle.begin(fault)
    host.run("sync")

    def end() -> None:
        staff.show()
        host.sources.repair("staff")
        host.mend(fault.name)

    month.after(month.random.uniform(0.5, 6), f"{fault.name} ends", end)


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
    if all(hold["domain"] != f"relay_domains:{domain}" for hold in host.held()):  # its source fails, or no run ends
        month.after(1, f"{domain} may go", partial(_may_go, month, domain))
        return
    month.approve(host.holds(domain, f"relay_domains:{domain}"))

    def gone() -> None:
        host.oracle.domains.pop(domain, None)
        host.mend(f"leaving {domain}")

    month.after(70, f"{domain} is gone", gone)


def doubt_by_hand(month: Month) -> None:
    """A person puts a domain in doubt, and ends that."""
    host = month.host
    domain = month.random.choice(host.configured)
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
    shutil.rmtree(month.host.state)
    month.host.lose_state()
    _begin_again(month)


def state_damaged(month: Month) -> None:
    """Its database is overwritten: it is set aside, which is a loss."""
    database = month.host.state / "state.db"
    database.write_bytes(b"\0" * database.stat().st_size)
    month.host.lose_state()
    _begin_again(month)


def state_restored(month: Month) -> None:
    """Its state is one of some days ago, and the map was published since."""
    host, source = month.host, _free_source(month)
    copy = month.old_copy()
    if source is None:
        return
    come = f"{month.name()}@{min(host.sources.domains(source))}"
    _change(host, source, add=[come])
    host.run("sync")
    if come not in host.in_map():
        return
    _restored(host, copy.place, ["state"])
    host.identity = copy.identity
    host.oracle.stays.clear()
    host.oracle.lose_reasons(host.coming)
    host.oracle.remove_again(in_text(copy.place / "relay_recipients") - host.in_map())
    host.oracle.disturb()
    host.expect_state_new()
    _unsettled(month, copy)
    _begin_again(month)


def _unsettled(month: Month, copy: Copy) -> None:
    """Expect that what was removed since a copy is missing again, and may be held."""
    host = month.host
    again = (in_text(copy.place / "relay_recipients") | host.in_map()) - host.listed()
    tables = (host.tables, copy.place)
    lines = [line for place in tables for line in (place / "relay_domains").read_text("utf-8").splitlines()]
    domains = {line.partition(" ")[0] for line in lines if not line.startswith("#")}
    expected = {*host.configured, *host.sources.reported}
    host.mend(UNSETTLED)
    host.fault(UNSETTLED, may={*_by_domain(again), *(domains - expected)})


def _begin_again(month: Month) -> None:
    """Run after the state changed; a person may let go what is held by it."""
    host = month.host
    host.run("sync")
    if host.stands(STATE_NEW) and month.random.random() < 0.5:
        month.after(month.random.uniform(0, 20), "the state is approved", partial(_approve_state, month))
    month.look()


def _approve_state(month: Month) -> None:
    month.host.run("sync")
    month.approve_state()


def reads_fail(month: Month) -> None:
    """The medium of its database has an error: nothing is set aside, and nothing is forgotten."""
    host = month.host
    host.oracle.disturb()
    program = host.bin / "failing-reads"
    database = shlex.quote(str(host.state / "state.db"))
    for _ in range(2):
        _something_changes(month)
        inject = f"-e trace=pread64 -e inject=pread64:error=EIO:when={month.random.randint(1, 20)}"
        program.write_text(f'#!/bin/sh\nexec strace -f -qq -o /dev/null -P {database} {inject} {sys.executable} "$@"\n')
        program.chmod(0o755)
        host.clock.step(2 * MINUTE)
        host.run("sync", python=str(program))
    month.look()
    host.run("sync")


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
        elif target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def rebooted(month: Month) -> None:
    """The host starts with the tables of a week ago, its state with them or not; the switch runs before Postfix."""
    host, copy = month.host, month.old_copy()
    names = {path.name for place in (host.tables, copy.place) for path in place.iterdir()} - {"state"}
    with_state = month.random.random() < 0.5
    host.postfix.kill()
    _unsettled(month, copy)
    _restored(host, copy.place, [*sorted(names), *(["state"] if with_state else [])])
    host.say(f"restored {'with' if with_state else 'without'} the state")
    host.oracle.stays.clear()
    if with_state:
        host.oracle.forget(host.in_map())
        _is_that_of(month, copy)
    elif copy.identity != host.identity:
        host.expect_state_new()
    host.forget_domains()
    host.mend(*(fault.name for fault in host.oracle.faults if fault.name.startswith(_BY_HAND)))
    host.finished_at = host.finished_at[:1]
    host.switch("--boot", asks=False)
    host.postfix.start()
    host.reopen()
    host.probe(whole=True)
    _begin_again(month)


def _is_that_of(month: Month, copy: Copy) -> None:
    """Expect that the host is that of a copy: what its state did not know then, it does not know now."""
    host = month.host
    host.mend(STATE_NEW)
    host.identity = copy.identity
    month.forget_later(copy)
    if copy.state_new:
        now = host.clock.now  # it may end at any time: the state knows since when it stands
        host.oracle.begin(Fault(STATE_NEW, frozenset(), may=ALL, until=now, lasts=WINDOW))


def clock_goes_back(month: Month) -> None:
    """The clock is set back by hours."""
    month.host.set_clock(-month.random.uniform(0.1, 10) * HOUR)
    month.host.run("sync")
    month.look()


def clock_leaps(month: Month) -> None:
    """The clock is days ahead, and set right again."""
    host, days = month.host, month.random.uniform(1.1, 3) * DAY
    host.set_clock(days)
    host.fault("hosted is old by that clock", may=host.sources.domains("hosted"))
    host.mend(*(fault.name for fault in host.oracle.faults if fault.name.startswith(_BY_HAND)))  # it lasts for hours
    month.look()
    host.run("sync")
    host.mend("hosted is old by that clock")
    host.set_clock(-days)
    month.look()
    host.run("sync")
    month.look()


EVENTS: tuple[Callable[[Month], None], ...] = (
    domain_comes,
    newcomers,
    leavers,
    source_missing,
    lost_in_error,
    torn,
    killed,
    many_lost,
    half_by_http,
    stopped,
    source_empty,
    half_lost,
    catch_all_held,
    contradiction,
    domain_emptied,
    python_removed,
    disk_full,
    older_again,
    unreadable_lines,
    canary_absent,
    garbled_lines,
    configuration_broken,
    source_is_garbage,
    state_lost,
    outdated,
    state_unreadable,
    not_modified,
    postmap_fails,
    rebooted,
    domain_leaves,
    doubt_by_hand,
    source_is_directory,
    reads_fail,
    state_restored,
    clock_goes_back,
    clock_leaps,
    state_damaged,
)
"""Each kind of event, in an order in which each can happen."""
DIRECTORY_EVENTS: tuple[Callable[[Month], None], ...] = (unit_hidden, unit_unreadable)
"""Those of a host that has a directory."""
