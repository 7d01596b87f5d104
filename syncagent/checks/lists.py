"""Which domains a list of main.cf matches: inline, in files, in tables of any type. Rules: match_list(3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.files import atomic as files
from syncagent.postfix.main_cf import entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.checks.context import Host


def matches(host: Host, name: str, domains: Iterable[str]) -> dict[str, str]:
    """Give which of the domains a list matches, each with the entry of main.cf that does.

    The first entry that matches counts, one with ``!`` excludes. For relay_domains a domain's parents count as well,
    if parent_domain_matches_subdomains says so. What cannot be asked matches nothing: see Host.troubles.
    """
    keys = {domain: _keys(host, name, domain.casefold()) for domain in domains}
    under: dict[str, list[str]] = {}
    for domain, several in keys.items():
        for key in several:
            under.setdefault(key, []).append(domain)
    found: dict[str, str] = {}
    for entry in host.listed(name):
        for pattern in patterns(entry):
            if not keys:  # Postfix asks no further either
                return found
            there = _there(host, bare(pattern), under)
            excludes = (pattern.count("!") + entry.count("!", 0, 1)) % 2
            hit = {one: None for key in there for one in under.get(key, ()) if one in keys}
            for domain in hit:
                del keys[domain]
                if not excludes:
                    found[domain] = entry
    return found


def _there(host: Host, pattern: str, keys: Iterable[str]) -> Iterable[str]:
    """Give the keys that a pattern has."""
    if pattern in host.troubles:
        return ()
    return host.look_up(pattern, keys) if is_named(pattern) else (pattern.casefold(),)


def bare(entry: str) -> str:
    """Give an entry of a list without the ``!`` that makes it an exception."""
    return entry.lstrip("!")


def is_named(pattern: str) -> bool:
    """Tell whether an entry of a list names a table, and is no domain, file, or address in brackets."""
    return ":" in pattern and not pattern.startswith(("[", "/"))


def patterns(entry: str) -> Iterator[str]:
    """Give an entry, or what the file has that it names, as far as that can be read."""
    named = entry.removeprefix("!")
    try:
        text = files.read_foreign_text(named, files.MOST_OF_A_LIST, "replace") if named[:1] == "/" else None
    except OSError:
        text = None
    if text is None:
        yield named
        return
    for line in text.splitlines():
        if not line.startswith("#"):
            yield from entries(line)


def _keys(host: Host, name: str, domain: str) -> list[str]:
    """Give what a domain is looked for under: itself, and above it parents by name, or by a leading dot."""
    if name != "relay_domains":
        return [domain]
    labels = domain.split(".")
    above = [".".join(labels[at:]) for at in range(1, len(labels))]
    parents = name in host.listed("parent_domain_matches_subdomains")
    return [domain, *(above if parents else [f".{one}" for one in above])]
