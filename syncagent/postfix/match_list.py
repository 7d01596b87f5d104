"""Match domains against a list of main.cf with domains, files and tables of any type. Rules: match_list(3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.postfix.live import is_table, patterns_of, without_exclamation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.postfix.live import LivePostfix


def matches(live: LivePostfix, name: str, domains: Iterable[str]) -> dict[str, str]:
    """Return the domains that the list ``name`` matches, each with the matching entry of main.cf.

    The first match decides; an entry or pattern with ``!`` excludes the domain. In relay_domains, ``example.com``
    also matches subdomains if parent_domain_matches_subdomains has relay_domains; otherwise ``.example.com`` does.
    Tables and files that cannot be queried match nothing. Raises CommandError if a lookup fails.
    """
    keys = {domain: _keys(live, name, domain.casefold()) for domain in domains}
    domains_of: dict[str, list[str]] = {}
    for domain, domain_keys in keys.items():
        for key in domain_keys:
            domains_of.setdefault(key, []).append(domain)
    matched: dict[str, str] = {}
    for entry in live.listed(name):
        for pattern in patterns_of(entry):
            if not keys:  # all domains are decided; Postfix stops at the first match as well
                return matched
            hits = _hits(live, without_exclamation(pattern), domains_of)
            excludes = (pattern.count("!") + entry.count("!", 0, 1)) % 2
            for domain in dict.fromkeys(domain for key in hits for domain in domains_of.get(key, ()) if domain in keys):
                del keys[domain]
                if not excludes:
                    matched[domain] = entry
    return matched


def _hits(live: LivePostfix, pattern: str, keys: Iterable[str]) -> Iterable[str]:
    """Return the keys that a pattern matches.

    For a table these are the ``keys`` that it has, for any other pattern the pattern itself, case-folded. A pattern in
    ``live.unreadable`` matches none. Raises CommandError if the lookup fails.
    """
    if pattern in live.unreadable:
        return ()
    return live.look_up(pattern, keys) if is_table(pattern) else (pattern.casefold(),)


def _keys(live: LivePostfix, name: str, domain: str) -> list[str]:
    """Return the lookup keys of a domain: the domain, and for relay_domains its parents."""
    return with_parents(live, name, domain) if name == "relay_domains" else [domain]


def with_parents(live: LivePostfix, name: str, domain: str) -> list[str]:
    """Return the lookup keys of a domain where ``name`` matches subdomains: the domain, then its parents.

    The parents have a leading dot unless parent_domain_matches_subdomains has ``name``.
    """
    labels = domain.split(".")
    parents = [".".join(labels[at:]) for at in range(1, len(labels))]
    by_name = name in live.listed("parent_domain_matches_subdomains")
    return [domain, *(parents if by_name else [f".{parent}" for parent in parents])]
