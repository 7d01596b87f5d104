"""A real Postfix where much is wrong: every mend that one run of `check` prints, typed in the order of the output."""

import pytest

from tests.checks import Backup, problems
from tests.checks.test_misconfigurations import Deed, both, domains_file, lost, main_cf, people, table
from tests.support.postmap import settle

ROUNDS = 3
OLD = table("old", "hash", "x@example.com OK\n", relay_recipient_maps="TABLE")


def unpublished(backup: Backup) -> None:
    """Have nothing published yet."""
    lost("relay_recipients", ".lmdb")(backup)
    lost("relay_recipients")(backup)


SEVERAL: dict[str, Deed] = {
    "another table is named": OLD,
    "another table is named, and nothing is published": both(unpublished, OLD),
    "two other tables are named": both(OLD, main_cf(relay_recipient_maps="hash:$config_directory/../old, static:OK")),
    "a table that takes everybody is named": main_cf(relay_recipient_maps="static:OK"),
    "a pattern is named, and nothing is published": both(
        unpublished, table("old", "regexp", "/^x@example\\.com$/ OK\n", relay_recipient_maps="TABLE")
    ),
    "everybody beside it, and others": main_cf(relay_recipient_maps="inline:{{x@example.com=OK}}, static:OK, MAP"),
    "a union of tables": main_cf(relay_recipient_maps="unionmap:{{MAP, inline:{{x@example.com=OK}}}}"),
    "a pipe of it": main_cf(relay_recipient_maps="pipemap:{{MAP}}"),
    "its index is named": main_cf(relay_recipient_maps="MAP.lmdb"),
    "two forms of it": main_cf(relay_recipient_maps="hash:$config_directory/../maps/relay_recipients, cdb:/x, MAP"),
    "a domain and recipients below another": both(
        people("u@sub.example.com"), main_cf(relay_domains="example.com", parent_domain_matches_subdomains="")
    ),
    "a domain, recipients below another, and a table that is missing": both(
        people("u@sub.example.com"),
        main_cf(relay_domains="example.com, hash:/nonexistent/more", parent_domain_matches_subdomains=""),
    ),
    "a file of domains, and recipients below one": both(
        people("u@sub.example.com"), domains_file("example.com\n"), main_cf(parent_domain_matches_subdomains="")
    ),
    "a domain in mydestination, beside a table that is missing": main_cf(
        mydestination="$myhostname, example.com, hash:/nonexistent/more, example.org", local_recipient_maps=None
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_every_mend_in_order(name: str, backup: Backup) -> None:
    """After the first round the known are taken and the unknown refused; after a few nothing is left to say."""
    SEVERAL[name](backup)
    settle(backup.postfix.config_directory / "main.cf")
    known = [line for line in backup.list.read_text().splitlines() if "@" in line]
    for attempt in range(ROUNDS):
        found = problems(backup.check("--offline"))
        if not found:
            break
        for one in found:
            backup.type_in(one["mend"])
        if not attempt:
            backup.postfix.start()
        else:
            backup.postfix.reload()
        assert {backup.postfix.verdict(address).code for address in known} == {250}
        assert [backup.postfix.verdict(f"nobody@{domain}").code for domain in ("example.com", "example.org")] == [
            550
        ] * 2
    assert problems(backup.check("--offline")) == []


def test_an_old_table_stays_until_it_is_known(backup: Backup) -> None:
    """What an old table has stays valid until the map is in force beside it; only then is it said what to take out."""
    SEVERAL["another table is named"](backup)
    for one in problems(backup.check("--offline")):
        backup.type_in(one["mend"])
    backup.postfix.start()
    assert backup.postfix.verdict("x@example.com").code == 250
    (left,) = problems(backup.check("--offline"))
    assert (left["check"], left["severity"]) == ("no-other-tables", "warning")
