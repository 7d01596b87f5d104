"""A real Postfix per misconfiguration: `check` names it with its mend, and the mend, typed, makes it right."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncagent import checks
from tests.checks import Backup, problems
from tests.support.postmap import postmap_build, settle
from tests.support.run import syncagent

Deed = Callable[[Backup], object]


@dataclass(frozen=True)
class Case:
    """How to break it, and what is found then; `also` does what a mend leaves to a person.

    `live`: an address, and what smtpd answers for it while it is broken, and once it is mended.
    """

    deed: Deed
    check: str
    severity: str
    subject: str
    mend: str
    also: Deed | None = None
    live: tuple[str, int, int] | None = None


def beside(backup: Backup, name: str) -> Path:
    """A file beside the map."""
    return backup.postfix.map_path.with_name(name)


def main_cf(**parameters: str | None) -> Deed:
    """Set parameters of main.cf, MAP standing for the map, DOUBT for the doubt table."""

    def deed(backup: Backup) -> None:
        named, doubt = backup.postfix.relay_recipient_maps or "", f"lmdb:{beside(backup, 'doubt')}"
        values = {name: value and value.replace("MAP", named) for name, value in parameters.items()}
        backup.postfix.set(**{name: value and value.replace("DOUBT", doubt) for name, value in values.items()})

    return deed


def table(name: str, kind: str, text: str, **parameters: str) -> Deed:
    """Make a table, and name it in main.cf by TABLE."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.directory / name
        path.write_text(text)
        settle(path)
        if kind in {"hash", "lmdb"}:
            postmap_build(backup.postfix.config_directory, f"{kind}:{path}")
        backup.postfix.set(**{key: value.replace("TABLE", f"{kind}:{path}") for key, value in parameters.items()})

    return deed


def people(*addresses: str) -> Deed:
    """Have the source give more, and publish them."""

    def deed(backup: Backup) -> None:
        backup.add(*addresses)
        backup.sync()

    return deed


def left(address: str) -> Deed:
    """Have the source give one less, and publish that."""

    def deed(backup: Backup) -> None:
        backup.list.write_text(backup.list.read_text().replace(f"{address}\n", ""))
        backup.sync()

    return deed


def approved(backup: Backup) -> None:
    """Approve what is held."""
    told = json.loads(syncagent("sync", "--json", config=backup.file, check=65).stdout)
    syncagent("approve", *(hold["id"] for hold in told["plan"]["holds"]), config=backup.file, check=0)


def cut(path: Path) -> None:
    """Take the end of the last line away."""
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))


def both(*deeds: Deed) -> Deed:
    """Do one after the other."""

    def deed(backup: Backup) -> None:
        for one in deeds:
            one(backup)

    return deed


def settings(**keys: object) -> Deed:
    """Set keys of [postfix], and publish."""

    def deed(backup: Backup) -> None:
        for key, value in keys.items():
            backup.configure(key, value)
        backup.sync()

    return deed


def domains_file(text: str) -> Deed:
    """Have relay_domains in a file."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.directory / "domains"
        path.write_text(text)
        backup.postfix.set(relay_domains=str(path))

    return deed


def networks_file(text: str) -> Deed:
    """Have mynetworks in a file."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.directory / "networks"
        path.write_text(text)
        backup.postfix.set(mynetworks=str(path))

    return deed


def fifo(backup: Backup) -> None:
    """Put a FIFO in the place of the map's text."""
    backup.postfix.map_path.unlink()
    os.mkfifo(backup.postfix.map_path)


def lock(backup: Backup) -> Path:
    """The lock of a run."""
    return backup.directory / "state" / "sync.lock"


def domains_map(backup: Backup) -> None:
    """Publish the domains as well."""
    settings(domains_map=f"lmdb:{backup.postfix.map_path.with_name('relay_domains')}")(backup)


def no_lmdb(backup: Backup) -> None:
    """Have Postfix without lmdb tables, as without its package."""
    path = backup.postfix.config_directory / "dynamicmaps.cf"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("lmdb")))


def text_by_hand(backup: Backup) -> None:
    """Edit the map's text, and forget postmap."""
    with backup.postfix.map_path.open("a") as file:
        file.write("by-hand@example.com OK\n")
    index = backup.postfix.map_path.with_suffix(".lmdb")
    os.utime(index, (index.stat().st_atime, index.stat().st_mtime - 60))


def no_index(backup: Backup) -> None:
    """Lose the index."""
    backup.postfix.map_path.with_suffix(".lmdb").unlink()


def no_map(backup: Backup) -> None:
    """Lose the map."""
    no_index(backup)
    backup.postfix.map_path.unlink()


def forgotten(backup: Backup) -> None:
    """Forget the recipients of a domain, though a source has them: a map that was put in place by hand."""
    backup.postfix.build_map("anna@example.com OK\npostmaster@example.com OK\n")


def catch_all_by_hand(backup: Backup) -> None:
    """Find a catch-all in a map that another hand wrote."""
    backup.postfix.build_map(backup.postfix.map_path.read_text() + "@example.org OK\n")
    backup.sync()


def master_cf(*options: str) -> Deed:
    """Add options to the smtpd."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.config_directory / "master.cf"
        first, rest = path.read_text().split("\n", 1)
        path.write_text(" ".join([first, *(f"-o {option}" for option in options)]) + "\n" + rest)

    return deed


def behind_postscreen(*options: str) -> Deed:
    """Have postscreen before the smtpd, with options of its own."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.config_directory / "master.cf"
        first, rest = path.read_text().split("\n", 1)
        behind = " ".join(["smtpd pass - - n - - smtpd", *(f"-o {option}" for option in options)])
        path.write_text("\n".join([first.replace(" - smtpd", " 1 postscreen"), behind, rest]))

    return deed


def lines_of(name: str, *lines: str) -> Deed:
    """Add lines to main.cf or master.cf."""

    def deed(backup: Backup) -> None:
        with (backup.postfix.config_directory / name).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    return deed


def less(name: str, gone: str) -> Deed:
    """Take a line out of main.cf or master.cf."""

    def deed(backup: Backup) -> None:
        path = backup.postfix.config_directory / name
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if line != gone))

    return deed


def open_secret(backup: Backup) -> None:
    """Have a secret that others can read."""
    secret = backup.directory / "hook"
    secret.write_text("http://127.0.0.1:9/\n")
    secret.chmod(0o644)
    with backup.file.open("a") as file:
        file.write('[notify]\nurl_file = "./hook"\n')


def mode(name: str, bits: int) -> Deed:
    """Open a directory."""

    def deed(backup: Backup) -> None:
        place = backup.directory / name if name == "state" else backup.postfix.map_path.parent
        place.chmod(bits)

    return deed


def another_index(name: str) -> Deed:
    """Find an index in the place of ours that is newer, and not of its text."""

    def deed(backup: Backup) -> None:
        stray = backup.postfix.directory / "stray"
        stray.write_text("somebody@example.net OK\n")
        postmap_build(backup.postfix.config_directory, f"lmdb:{stray}")
        stray.with_suffix(".lmdb").replace(backup.postfix.map_path.with_name(f"{name}.lmdb"))

    return deed


def index_by_hand(backup: Backup) -> None:
    """Run postmap by hand: another file, and the same in it."""
    postmap_build(backup.postfix.config_directory, backup.postfix.relay_recipient_maps or "")


def relayed_by_the_map(backup: Backup) -> None:
    """Publish the domains as well, and name that table alone."""
    domains_map(backup)
    backup.postfix.set(relay_domains=f"lmdb:{backup.postfix.map_path.with_name('relay_domains')}")


def lost(name: str, suffix: str = "") -> Deed:
    """Lose a file beside the map."""

    def deed(backup: Backup) -> None:
        backup.postfix.map_path.with_name(name + suffix).unlink()

    return deed


def unindexed(backup: Backup) -> None:
    """Lose the index of a table that has its text."""
    (backup.postfix.directory / "domains.db").unlink()


def configure_doubt(backup: Backup) -> None:
    """Have a doubt table in the configuration, with example.com always in doubt."""
    backup.configure("doubt_map", f"lmdb:{beside(backup, 'doubt')}")
    backup.configure("doubt_always", ["example.com"])


def doubtful(backup: Backup) -> None:
    """Have a doubt table, with example.com in doubt, and a switch that runs; main.cf does not name it."""
    configure_doubt(backup)
    backup.sync()
    seen(backup)


def seen(backup: Backup) -> None:
    """Have the switch run."""
    beside(backup, "doubt-switch-seen").touch()


def in_doubt(**parameters: str | None) -> Deed:
    """Have a doubt table as main.cf is to ask it, then set parameters."""
    lines = {"smtpd_sender_restrictions": FORM_C, "default_transport": "discard:", **parameters}
    return both(doubtful, main_cf(**lines))


def a_line_less(backup: Backup) -> None:
    """Lose one form of an internationalised domain in the doubt table."""
    text = beside(backup, "doubt")
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("".join(line for line in lines if not line.startswith("bücher")))
    postmap_build(backup.postfix.config_directory, f"lmdb:{text}")


def values_by_hand(backup: Backup) -> None:
    """Find a map that another hand wrote, with values that are not OK."""
    backup.postfix.build_map(backup.postfix.map_path.read_text().replace(" OK", " x"))


def forget_doubt(backup: Backup) -> None:
    """Take the keys of the doubt table out of the configuration."""
    lines = backup.file.read_text().splitlines(keepends=True)
    backup.file.write_text("".join(line for line in lines if not line.startswith("doubt_")))


def unpublishable(backup: Backup) -> None:
    """Have a directory in the place of the other doubt table, and a run that fails for that."""
    beside(backup, "doubt-all.lmdb").unlink()
    beside(backup, "doubt-all.lmdb").mkdir()
    syncagent("sync", config=backup.file, check=73)


FORM_C = "check_recipient_access MAP, check_recipient_access DOUBT, reject_unlisted_recipient"
ASKED = "check_recipient_access DOUBT"
SENDER = "smtpd_sender_restrictions"
NOBODY = "nobody@example.com"
ERROR, WARNING = "error", "warning"
TRUSTING = {
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "smtpd_recipient_restrictions": "",
    "default_transport": "discard:",
}
CASES: dict[str, Case] = {
    "a line of main.cf is none": Case(
        lines_of("main.cf", "relay_domain example.com"),
        "main-cf-is-understood",
        ERROR,
        "config",
        "# correct",
        also=less("main.cf", "relay_domain example.com"),
    ),
    "a parameter of main.cf stands for itself": Case(
        both(main_cf(myhostname=None), lines_of("main.cf", "myhostname = $ours", "ours = $myhostname")),
        "main-cf-is-understood",
        ERROR,
        "config",
        "# correct",
        also=less("main.cf", "myhostname = $ours"),
    ),
    "a parameter of master.cf stands for itself": Case(
        lines_of("master.cf", "  -o relay_domains=$relay_domains"),
        "main-cf-is-understood",
        ERROR,
        "config",
        "# correct",
        also=less("master.cf", "  -o relay_domains=$relay_domains"),
    ),
    "the map is not named": Case(
        main_cf(relay_recipient_maps=None),
        "map-is-named",
        ERROR,
        "lmdb:",
        "postconf",
        live=("nobody@example.com", 250, 550),
    ),
    "the map is named with another type": Case(
        main_cf(relay_recipient_maps="hash:$config_directory/../maps/relay_recipients"),
        "map-is-named",
        ERROR,
        "lmdb:",
        "postconf",
    ),
    "another table is named": Case(
        table("old", "hash", "x@example.com OK\n", relay_recipient_maps="TABLE"),
        "map-is-named",
        ERROR,
        "lmdb:",
        "postconf",
    ),
    "another table beside it": Case(
        both(main_cf(relay_recipient_maps="proxy:MAP, inline:{{old@example.com=OK}}")),
        "no-other-tables",
        WARNING,
        "inline:",
        "postconf",
    ),
    "another table takes everybody": Case(
        main_cf(relay_recipient_maps="MAP, static:OK"),
        "no-other-tables",
        ERROR,
        "static:OK",
        "postconf",
        live=("nobody@example.com", 250, 550),
    ),
    "the type is not there": Case(no_lmdb, "type-is-there", ERROR, "lmdb:", "apt-get install postfix-lmdb"),
    "the index is older than its text": Case(text_by_hand, "index-is-current", ERROR, ".lmdb", "syncagent"),
    "the index is missing": Case(
        no_index, "index-is-current", ERROR, "relay_recipients", "syncagent", live=("anna@example.com", 451, 250)
    ),
    "the map is missing": Case(no_map, "index-is-current", ERROR, "relay_recipients", "syncagent"),
    "another index is in its place": Case(
        another_index("relay_recipients"),
        "index-is-current",
        ERROR,
        ".lmdb",
        "syncagent",
        live=("anna@example.com", 550, 250),
    ),
    "the index of the domains is another": Case(
        both(relayed_by_the_map, another_index("relay_domains")),
        "index-is-current",
        ERROR,
        "relay_domains.lmdb",
        "syncagent",
        live=("ben@example.org", 554, 250),
    ),
    "a domain is not in the index of the domains": Case(
        both(relayed_by_the_map, another_index("relay_domains")),
        "domains-are-relayed",
        ERROR,
        "example.org",
        "syncagent",
        live=("ben@example.org", 554, 250),
    ),
    "the index of the domains is missing": Case(
        both(relayed_by_the_map, lost("relay_domains", ".lmdb")),
        "index-is-current",
        ERROR,
        "relay_domains",
        "syncagent",
        live=("anna@example.com", 451, 250),
    ),
    "the type of the domains is not there": Case(
        both(relayed_by_the_map, no_lmdb), "type-is-there", ERROR, "relay_domains", "apt-get install postfix-lmdb"
    ),
    "relay_domains names a table that is missing": Case(
        main_cf(relay_domains="lmdb:/nonexistent/domains"),
        "tables-can-be-asked",
        ERROR,
        "lmdb:/nonexistent/domains",
        "# ",
        live=("anna@example.com", 451, 250),
    ),
    "relay_domains names a file that is missing": Case(
        main_cf(relay_domains="/nonexistent/domains, example.com, example.org"),
        "tables-can-be-asked",
        ERROR,
        "/nonexistent/domains",
        "# ",
        live=("anna@example.com", 451, 250),
    ),
    "relay_domains names a table that is not indexed": Case(
        both(table("domains", "hash", "example.com x\nexample.org x\n", relay_domains="TABLE"), unindexed),
        "tables-can-be-asked",
        ERROR,
        "hash:",
        "postmap",
        live=("anna@example.com", 451, 250),
    ),
    "a file of relay_domains names a table that is missing": Case(
        both(domains_file("example.com\nhash:/nonexistent/more\nexample.org\n")),
        "tables-can-be-asked",
        ERROR,
        "hash:/nonexistent/more",
        "# take hash:/nonexistent/more out of",
        also=domains_file("example.com\nexample.org\n"),
        live=("ben@example.org", 451, 250),
    ),
    "virtual_alias_maps names a table that is missing": Case(
        main_cf(virtual_alias_maps="hash:/nonexistent/virtual"),
        "tables-can-be-asked",
        ERROR,
        "hash:/nonexistent/virtual",
        "# ",
        live=("anna@example.com", 451, 250),
    ),
    "transport_maps is of a type that is not there": Case(
        main_cf(transport_maps="nosuch:/nonexistent/transport"),
        "tables-can-be-asked",
        ERROR,
        "nosuch:/nonexistent/transport",
        "# ",
        live=("anna@example.com", 451, 250),
    ),
    "a table that is missing hides no conflict of classes": Case(
        main_cf(virtual_alias_maps="hash:/nonexistent/virtual", virtual_mailbox_domains="example.com"),
        "domains-are-of-one-class",
        ERROR,
        "example.com",
        "postconf",
    ),
    "a table beside it is missing": Case(
        main_cf(relay_recipient_maps="MAP, hash:/nonexistent/old"),
        "tables-can-be-asked",
        ERROR,
        "hash:/nonexistent/old",
        "# ",
        live=("nobody@example.com", 451, 550),
    ),
    "the same file as another type beside it, never indexed": Case(
        main_cf(relay_recipient_maps="MAP, hash:$config_directory/../maps/relay_recipients"),
        "no-other-tables",
        ERROR,
        "hash:",
        "postconf",
        live=("nobody@example.com", 451, 550),
    ),
    "the same file as another type beside it, out of date": Case(
        both(
            people("left@example.com"),
            lambda backup: postmap_build(backup.postfix.config_directory, f"hash:{backup.postfix.map_path}"),
            left("left@example.com"),
            main_cf(relay_recipient_maps="MAP, hash:$config_directory/../maps/relay_recipients"),
        ),
        "no-other-tables",
        ERROR,
        "hash:",
        "postconf",
        live=("left@example.com", 250, 550),
    ),
    "another table takes everybody of one domain": Case(
        both(
            table("old", "hash", "@example.org OK\n"),
            main_cf(relay_recipient_maps="MAP, hash:$config_directory/../old"),
        ),
        "no-other-tables",
        ERROR,
        "hash:",
        "postconf",
        live=("nobody@example.org", 250, 550),
    ),
    "unlisted recipients are not rejected": Case(
        main_cf(smtpd_reject_unlisted_recipient="no"),
        "unlisted-are-rejected",
        ERROR,
        "smtpd_reject_unlisted_recipient",
        "postconf",
        live=("nobody@example.com", 250, 550),
    ),
    "unknown recipients are not looked for": Case(
        main_cf(receive_override_options="no_unknown_recipient_checks"),
        "unlisted-are-rejected",
        ERROR,
        "receive_override_options",
        "postconf",
        live=("nobody@example.com", 250, 550),
    ),
    "unlisted recipients are rejected after they are permitted": Case(
        main_cf(
            smtpd_reject_unlisted_recipient="no",
            smtpd_recipient_restrictions="permit_auth_destination, reject_unlisted_recipient, reject",
        ),
        "unlisted-are-rejected",
        ERROR,
        "smtpd_reject_unlisted_recipient",
        "postconf",
        live=("nobody@example.com", 250, 550),
    ),
    "450 in the first week": Case(
        main_cf(unknown_relay_recipient_reject_code="450"),
        "unknown-are-refused",
        WARNING,
        "unknown_relay_recipient_reject_code",
        "postconf",
        live=("nobody@example.com", 450, 550),
    ),
    "another code": Case(
        main_cf(unknown_relay_recipient_reject_code="554"),
        "unknown-are-refused",
        ERROR,
        "unknown_relay_recipient_reject_code",
        "postconf",
    ),
    "soft_bounce": Case(
        main_cf(soft_bounce="yes"),
        "unknown-are-refused",
        WARNING,
        "soft_bounce",
        "postconf",
        live=("nobody@example.com", 450, 550),
    ),
    "a virtual alias accepts all of a domain": Case(
        table(
            "virtual",
            "hash",
            "# aliases\n@Example.COM info@example.net\nx@example.com y@example.net\n",
            virtual_alias_maps="TABLE",
        ),
        "nothing-accepts-before",
        ERROR,
        "example.com",
        "sed",
        live=("nobody@example.com", 250, 550),
    ),
    "a virtual alias of two lines accepts all of a domain": Case(
        table(
            "virtual",
            "hash",
            "a@example.org b@example.net\n@example.com c@example.net,\n# and\n  d@example.net\n",
            virtual_alias_maps="TABLE",
        ),
        "nothing-accepts-before",
        ERROR,
        "example.com",
        "# take",
        also=table("virtual", "hash", "a@example.org b@example.net\n", virtual_alias_maps="TABLE"),
    ),
    "a canonical map accepts all of a domain": Case(
        table("canonical", "texthash", "@example.org @example.net\n", canonical_maps="TABLE"),
        "nothing-accepts-before",
        ERROR,
        "example.org",
        "sed",
        live=("nobody@example.org", 250, 550),
    ),
    "a pattern accepts everything": Case(
        table("recipients", "regexp", "/^(.*)@example\\.com$/ $1@example.net\n", recipient_canonical_maps="TABLE"),
        "nothing-accepts-before",
        ERROR,
        "example.com",
        "# take",
        also=main_cf(recipient_canonical_maps=""),
        live=("nobody@example.com", 250, 550),
    ),
    "local_recipient_maps is emptied": Case(
        main_cf(mydestination="$myhostname", local_recipient_maps=""),
        "local-recipients-are-known",
        WARNING,
        "local_recipient_maps",
        "postconf",
    ),
    "relaying for everybody": Case(
        main_cf(smtpd_relay_restrictions="permit_mynetworks, permit", smtpd_recipient_restrictions=""),
        "relaying-is-closed",
        ERROR,
        "smtpd_relay_restrictions",
        "postconf",
    ),
    "no restriction is left": Case(
        main_cf(smtpd_relay_restrictions="", smtpd_recipient_restrictions="permit_mynetworks"),
        "relaying-is-closed",
        ERROR,
        "smtpd_relay_restrictions",
        "postconf",
    ),
    "everybody is of mynetworks": Case(
        main_cf(
            mynetworks="127.0.0.0/8, [::]/0, 0.0.0.0/0",
            **TRUSTING,
        ),
        "few-are-trusted",
        ERROR,
        "0.0.0.0/0",
        "postconf",
        live=("u@example.net", 250, 250),  # from 127.0.0.1, which is a friend afterwards as well
    ),
    "nobody but everybody is of mynetworks": Case(
        main_cf(
            mynetworks="[2000::]/3",
            smtpd_relay_restrictions=None,
            smtpd_recipient_restrictions="permit_mynetworks, reject_unauth_destination",
        ),
        "few-are-trusted",
        ERROR,
        "[2000::]/3",
        "postconf",
    ),
    "everybody is of mynetworks, by a table": Case(
        both(
            table("networks", "cidr", "192.168.0.0/16 OK\n0.0.0.0/0 OK\n", mynetworks="127.0.0.1, TABLE"),
            main_cf(
                **TRUSTING,
            ),
        ),
        "few-are-trusted",
        ERROR,
        "cidr:",
        "# take",
        also=table("networks", "cidr", "192.168.0.0/16 OK\n", mynetworks="TABLE"),
        live=("u@example.net", 250, 554),
    ),
    "everybody is of mynetworks, by a file": Case(
        both(
            networks_file("192.168.0.0/16\n# all\n!192.0.2.7 0.0.0.0/1\n"),
            main_cf(
                **TRUSTING,
            ),
        ),
        "few-are-trusted",
        ERROR,
        "networks",
        "# take 0.0.0.0/1 out of",
        also=networks_file("192.168.0.0/16\n# 0.0.0.0/0\n"),
        live=("u@example.net", 250, 554),
    ),
    "a public /8 is of mynetworks": Case(
        main_cf(
            mynetworks="127.0.0.0/8, 9.0.0.0/8",
            **TRUSTING,
        ),
        "few-are-trusted",
        WARNING,
        "9.0.0.0/8",
        "postconf",
    ),
    "everybody is of mynetworks, which permits nothing": Case(
        main_cf(mynetworks="0.0.0.0/0"), "few-are-trusted", WARNING, "0.0.0.0/0", "postconf"
    ),
    "mail waits for hours only": Case(
        main_cf(maximal_queue_lifetime="4h"), "queue-lives-long", ERROR, "maximal_queue_lifetime", "postconf"
    ),
    "bounces wait for minutes only": Case(
        main_cf(bounce_queue_lifetime="30m"), "queue-lives-long", WARNING, "bounce_queue_lifetime", "postconf"
    ),
    "a domain is not in relay_domains": Case(
        main_cf(relay_domains="example.com"),
        "domains-are-relayed",
        ERROR,
        "example.org",
        "postconf",
        live=("ben@example.org", 554, 250),
    ),
    "relay_domains is what it is by default": Case(
        main_cf(relay_domains=None), "domains-are-relayed", ERROR, "example.com", "postconf"
    ),
    "an exception takes a domain out": Case(
        main_cf(relay_domains="example.com, !example.org, example.org"),
        "domains-are-relayed",
        ERROR,
        "example.org",
        "postconf",
        live=("ben@example.org", 554, 250),
    ),
    "one form of an IDN domain": Case(
        both(
            settings(relay_domains=["example.com", "example.org", "bücher.example"]),
            people("u@bücher.example", "postmaster@bücher.example"),
            main_cf(relay_domains="example.com example.org xn--bcher-kva.example"),
        ),
        "domains-are-relayed",
        ERROR,
        "bücher.example",
        "postconf",
        live=("u@bücher.example", 554, 250),
    ),
    "domains_map is not named": Case(domains_map, "domains-are-relayed", ERROR, "lmdb:", "postconf"),
    "a relayed domain is not configured": Case(
        main_cf(relay_domains="example.com, example.org, example.net"),
        "relayed-domains-are-ours",
        ERROR,
        "example.net",
        "in ",
        also=people("u@example.net", "postmaster@example.net"),
        live=("u@example.net", 550, 250),
    ),
    "a relayed domain of a table is not configured": Case(
        table("domains", "hash", "example.com x\nexample.org x\nexample.net x\n", relay_domains="TABLE"),
        "relayed-domains-are-ours",
        ERROR,
        "example.net",
        "in ",
        also=people("u@example.net", "postmaster@example.net"),
    ),
    "a relayed domain of a file is not configured": Case(
        domains_file("example.com, example.org\nexample.net\n"),
        "relayed-domains-are-ours",
        ERROR,
        "example.net",
        "in ",
        also=people("u@example.net", "postmaster@example.net"),
    ),
    "a domain is missing from a file": Case(
        domains_file("example.com\n# example.org\n!example.org, example.org\n"),
        "domains-are-relayed",
        ERROR,
        "example.org",
        "postconf",
        live=("ben@example.org", 554, 250),
    ),
    "a domain whose recipients are below it, in a table of domains": Case(
        both(
            people("u@sub.example.com"),
            table("domains", "hash", "example.com x\nexample.org x\n", relay_domains="TABLE"),
            main_cf(parent_domain_matches_subdomains=""),
        ),
        "recipients-are-relayed",
        ERROR,
        "sub.example.com",
        "postconf",
        live=("u@sub.example.com", 554, 250),
    ),
    "a domain without recipients": Case(
        both(
            settings(relay_domains=["example.com", "example.org", "example.net"]),
            main_cf(relay_domains="example.com, example.org, example.net"),
        ),
        "domains-have-recipients",
        ERROR,
        "example.net",
        "# have a source",
        also=people("u@example.net", "postmaster@example.net"),
    ),
    "a domain whose recipients another hand lost": Case(
        forgotten, "domains-have-recipients", ERROR, "example.org", "# have a source"
    ),
    "recipients outside relay_domains": Case(
        both(people("u@sub.example.com"), main_cf(parent_domain_matches_subdomains="")),
        "recipients-are-relayed",
        ERROR,
        "sub.example.com",
        "postconf",
        live=("u@sub.example.com", 554, 250),
    ),
    "a domain in mydestination": Case(
        main_cf(mydestination="$myhostname, example.com", local_recipient_maps=None),
        "domains-are-of-one-class",
        ERROR,
        "example.com",
        "postconf",
        live=("anna@example.com", 550, 250),
    ),
    "a domain in virtual_alias_domains": Case(
        main_cf(virtual_alias_domains="example.org"),
        "domains-are-of-one-class",
        ERROR,
        "example.org",
        "postconf",
        live=("ben@example.org", 550, 250),
    ),
    "a domain in virtual_mailbox_domains": Case(
        table("mailboxes", "hash", "example.org x\n", virtual_mailbox_domains="TABLE, example.com"),
        "domains-are-of-one-class",
        ERROR,
        "example.org",
        "# take example.org out of",
        also=main_cf(virtual_mailbox_domains=""),
    ),
    "a catch-all by another hand": Case(
        catch_all_by_hand,
        "catch-alls-are-wanted",
        WARNING,
        "@example.org",
        "syncagent",
        live=("nobody@example.org", 250, 550),
    ),
    "no postmaster": Case(
        both(
            settings(relay_domains=["example.com", "example.org", "example.net"]),
            main_cf(relay_domains="example.com, example.org, example.net"),
            people("u@example.net"),
        ),
        "domains-have-a-postmaster",
        WARNING,
        "example.net",
        "printf",
    ),
    "no postmaster, and a list whose last line does not end": Case(
        both(
            settings(relay_domains=["example.com", "example.org", "example.net"]),
            main_cf(relay_domains="example.com, example.org, example.net"),
            people("u@example.net"),
            lambda backup: cut(backup.list),
        ),
        "domains-have-a-postmaster",
        WARNING,
        "example.net",
        "printf",
        live=("u@example.net", 250, 250),
    ),
    "extensions, and no delimiter": Case(
        people("anna+lists@example.com"),
        "extensions-are-understood",
        WARNING,
        "recipient_delimiter",
        "postconf",
        live=("ben+new@example.org", 550, 250),
    ),
    "another value in master.cf": Case(
        master_cf("mynetworks=192.0.2.0/24"), "nothing-is-overridden", WARNING, "mynetworks", "postconf"
    ),
    "unlisted recipients are not rejected, by master.cf": Case(
        master_cf("smtpd_reject_unlisted_recipient=no"),
        "nothing-is-overridden",
        ERROR,
        "smtpd_reject_unlisted_recipient",
        "postconf",
    ),
    "the map is not named in master.cf": Case(
        master_cf("relay_recipient_maps=", "mynetworks=192.0.2.0/24"),
        "nothing-is-overridden",
        ERROR,
        "relay_recipient_maps",
        "postconf",
    ),
    "unknown recipients are not looked for, by master.cf": Case(
        master_cf("receive_override_options=no_header_body_checks,no_unknown_recipient_checks"),
        "nothing-is-overridden",
        ERROR,
        "receive_override_options",
        "postconf",
    ),
    "relaying for everybody, by two lists in master.cf": Case(
        master_cf("smtpd_relay_restrictions=", "smtpd_recipient_restrictions=permit_mynetworks"),
        "nothing-is-overridden",
        ERROR,
        "smtpd_recipient_restrictions",
        "postconf",
    ),
    "another value behind postscreen": Case(
        behind_postscreen("relay_recipient_maps="),
        "nothing-is-overridden",
        ERROR,
        "relay_recipient_maps",
        "postconf",
    ),
    "whoever names this host in DNS": Case(
        main_cf(smtpd_relay_restrictions="permit_mynetworks, permit_mx_backup, reject_unauth_destination"),
        "no-mx-backup",
        WARNING,
        "smtpd_relay_restrictions",
        "postconf",
    ),
    "the doubt table is not named": Case(
        both(doubtful, main_cf(smtpd_sender_restrictions="reject_non_fqdn_sender, $own", own="reject_unlisted_sender")),
        "doubt-is-asked",
        ERROR,
        "lmdb:",
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "the doubt table is not there yet": Case(
        both(configure_doubt, seen),
        "doubt-is-asked",
        ERROR,
        "lmdb:",
        "syncagent",
        live=(NOBODY, 550, 450),
    ),
    "the doubt table is asked of known recipients": Case(
        in_doubt(smtpd_sender_restrictions=f"{ASKED}, reject_unlisted_recipient"),
        "doubt-is-asked",
        WARNING,
        SENDER,
        "postconf",
        live=(NOBODY, 450, 450),
    ),
    "the doubt table is named with another type": Case(
        in_doubt(smtpd_sender_restrictions=FORM_C.replace("DOUBT", "hash:$config_directory/../maps/doubt")),
        "doubt-is-asked",
        ERROR,
        "lmdb:",
        "postconf",
        live=(NOBODY, 451, 450),
    ),
    "the doubt table by way of the proxy": Case(
        in_doubt(smtpd_sender_restrictions=FORM_C.replace("DOUBT", "proxy:DOUBT")),
        "doubt-is-asked",
        ERROR,
        "lmdb:",
        "postconf",
    ),
    "the map by way of a proxy that may not open it": Case(
        in_doubt(smtpd_sender_restrictions=FORM_C.replace("MAP", "proxy:MAP")),
        "doubt-is-asked",
        ERROR,
        SENDER,
        "postconf",
    ),
    "the map is asked with another type": Case(
        in_doubt(smtpd_sender_restrictions=FORM_C.replace("MAP", "hash:$config_directory/../maps/relay_recipients")),
        "doubt-is-asked",
        ERROR,
        SENDER,
        "postconf",
        live=("anna@example.com", 451, 250),
    ),
    "nothing rejects after the doubt table": Case(
        in_doubt(smtpd_sender_restrictions=ASKED), "doubt-is-asked", ERROR, SENDER, "postconf", live=(NOBODY, 550, 450)
    ),
    "the doubt table is asked when it is too late": Case(
        in_doubt(smtpd_sender_restrictions=f"check_recipient_access MAP, reject_unlisted_recipient, {ASKED}"),
        "doubt-is-asked",
        ERROR,
        SENDER,
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "the doubt table is asked of the client": Case(
        in_doubt(smtpd_sender_restrictions=None, smtpd_client_restrictions=f"{ASKED}, reject_unknown_client_hostname"),
        "doubt-is-asked",
        ERROR,
        "smtpd_client_restrictions",
        "postconf",
    ),
    "the doubt table is asked of the data as well": Case(
        in_doubt(smtpd_data_restrictions=f"reject_unauth_pipelining, {ASKED}"),
        "doubt-is-asked",
        WARNING,
        "smtpd_data_restrictions",
        "postconf",
    ),
    "more after the lines of doubt": Case(
        in_doubt(smtpd_sender_restrictions=f"{FORM_C}, check_sender_access inline:{{{{x@example.net=REJECT}}}}"),
        "doubt-is-asked",
        WARNING,
        SENDER,
        "postconf",
        live=("anna@example.com", 250, 250),
    ),
    "senders are judged before there is a recipient": Case(
        in_doubt(smtpd_delay_reject="no"),
        "doubt-is-asked",
        ERROR,
        "smtpd_delay_reject",
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "doubt by the list for recipients": Case(
        in_doubt(smtpd_sender_restrictions=None, smtpd_recipient_restrictions=f"{ASKED}, reject_unauth_destination"),
        "doubt-is-asked",
        WARNING,
        "smtpd_recipient_restrictions",
        "postconf",
        live=(NOBODY, 450, 450),
    ),
    "a doubt table that nobody keeps current": Case(
        both(in_doubt(), forget_doubt), "doubt-is-asked", ERROR, "lmdb:", "in ", live=(NOBODY, 450, 450)
    ),
    "a doubt table that nobody keeps current, by the list for recipients": Case(
        both(
            in_doubt(
                smtpd_sender_restrictions=None, smtpd_recipient_restrictions=f"{ASKED}, reject_unauth_destination"
            ),
            forget_doubt,
        ),
        "doubt-is-asked",
        ERROR,
        "lmdb:",
        "in ",
        live=(NOBODY, 450, 450),
    ),
    "doubt has another code": Case(
        in_doubt(access_map_defer_code="550"),
        "doubt-is-not-bypassed",
        ERROR,
        "access_map_defer_code",
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "unlisted ones are rejected before": Case(
        in_doubt(smtpd_helo_restrictions="reject_invalid_helo_hostname, reject_unlisted_recipient"),
        "doubt-is-not-bypassed",
        ERROR,
        "smtpd_helo_restrictions",
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "unlisted ones are rejected before, in the same list": Case(
        in_doubt(smtpd_sender_restrictions=f"reject_unlisted_recipient {FORM_C}"),
        "doubt-is-not-bypassed",
        ERROR,
        SENDER,
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "everybody is permitted before": Case(
        in_doubt(smtpd_sender_restrictions=f"reject_non_fqdn_sender, permit, {FORM_C}"),
        "doubt-is-not-bypassed",
        ERROR,
        SENDER,
        "postconf",
        live=(NOBODY, 550, 450),
    ),
    "everybody is permitted before, and more": Case(
        in_doubt(smtpd_sender_restrictions=f"permit, reject_non_fqdn_sender, {FORM_C}"),
        "doubt-is-not-bypassed",
        ERROR,
        SENDER,
        "# take permit out of",
        also=main_cf(smtpd_sender_restrictions=FORM_C),
        live=(NOBODY, 550, 450),
    ),
    "some are permitted before": Case(
        in_doubt(smtpd_sender_restrictions=f"permit_mynetworks, {FORM_C}"),
        "doubt-is-not-bypassed",
        WARNING,
        SENDER,
        "# take permit_mynetworks out of",
        also=main_cf(smtpd_sender_restrictions=FORM_C),
    ),
    "some are permitted before, by a table": Case(
        both(
            in_doubt(),
            table("friends", "hash", "127.0.0.1 OK\n", smtpd_sender_restrictions="check_client_access TABLE, $lines"),
            main_cf(lines=FORM_C),
        ),
        "doubt-is-not-bypassed",
        WARNING,
        SENDER,
        "# take check_client_access hash:",
        also=main_cf(smtpd_sender_restrictions=FORM_C),
        live=(NOBODY, 550, 450),
    ),
    "the doubt table is missing": Case(
        both(in_doubt(), lost("doubt"), lost("doubt", ".lmdb")),
        "doubt-is-published",
        ERROR,
        "doubt",
        "syncagent",
        live=(NOBODY, 451, 450),
    ),
    "one form of an IDN domain in doubt": Case(
        both(
            in_doubt(relay_domains="example.com, example.org, bücher.example, xn--bcher-kva.example"),
            settings(relay_domains=["example.com", "example.org", "bücher.example"], doubt_always=["bücher.example"]),
            people("u@bücher.example", "postmaster@bücher.example"),
            a_line_less,
        ),
        "doubt-is-published",
        ERROR,
        "xn--bcher-kva.example",
        "syncagent",
        live=("nobody@bücher.example", 550, 450),
    ),
    "the map has other values than OK": Case(
        both(in_doubt(), values_by_hand),
        "doubt-is-published",
        ERROR,
        "lmdb:",
        "syncagent",
        live=("anna@example.com", 451, 250),
    ),
    "doubt is left out by master.cf": Case(
        both(in_doubt(), master_cf("smtpd_sender_restrictions=reject_non_fqdn_sender")),
        "nothing-is-overridden",
        ERROR,
        SENDER,
        "postconf",
    ),
    "the switch does not run": Case(
        both(in_doubt(), lambda backup: beside(backup, "doubt-switch-seen").unlink()),
        "doubt-switch",
        ERROR,
        "maps",
        "# in /etc/cron.d/",
        also=seen,
    ),
    "there is no sign of life": Case(
        both(in_doubt(), lambda backup: beside(backup, "alive").unlink()), "doubt-switch", ERROR, "alive", "syncagent"
    ),
    "the doubt table cannot be published": Case(
        both(in_doubt(), unpublishable),
        "doubt-not-in-force",
        ERROR,
        "lmdb:",
        "syncagent",
        also=both(lambda backup: beside(backup, "doubt-all.lmdb").rmdir(), lost("doubt-switched")),
    ),
    "a secret that others can read": Case(open_secret, "secrets-are-kept", ERROR, "notify.url_file", "chmod 600"),
    "the state lies open": Case(mode("state", 0o755), "state-is-ours", WARNING, "state", "chmod 750"),
    "everybody may write the map": Case(mode("map", 0o777), "paths-are-ours", ERROR, "maps", "chmod o-w"),
    "the directory of the map is missing": Case(
        lambda backup: shutil.rmtree(backup.postfix.map_path.parent),
        "map-can-be-written",
        ERROR,
        "maps",
        "install -d",
    ),
    "a FIFO is in the place of the lock": Case(
        both(lambda backup: lock(backup).unlink(), lambda backup: os.mkfifo(lock(backup))),
        "lock-is-free",
        ERROR,
        "sync.lock",
        "# move ",
        also=lambda backup: lock(backup).unlink(),
    ),
    "the state is damaged": Case(
        lambda backup: (backup.directory / "state" / "state.db").write_bytes(b"no database" * 1000),
        "remembered",
        ERROR,
        "state",
        "syncagent",
    ),
    "a source fails": Case(
        lambda backup: backup.list.unlink(), "sources-answer", ERROR, "list", "", also=Backup.write_list
    ),
    "an entry cannot be read": Case(
        lambda backup: backup.list.write_text(f"{backup.list.read_text()}new@example.com (new)\n"),
        "rejected-entries",
        WARNING,
        "list",
        "# correct these entries at their source",
        also=Backup.write_list,
    ),
    "an entry that cannot be read is no recipient": Case(
        people("new@example.com (new)"),
        "rejected-entries",
        WARNING,
        "list",
        "# correct these entries at their source\n# or, if they are no recipients, syncagent",
        also=approved,
    ),
    "the data is outdated": Case(
        lambda backup: backup.list.write_text(f"# made: 2020-01-01T00:00:00Z\n{backup.list.read_text()}"),
        "data-is-current",
        ERROR,
        "list",
        "",
        also=Backup.write_list,
    ),
    "a FIFO is in the place of the map": Case(
        fifo,
        "tables-are-files",
        ERROR,
        "relay_recipients",
        "# move ",
        also=lambda backup: backup.postfix.map_path.unlink(),
    ),
}


def test_a_right_one(backup: Backup) -> None:
    """Where all is right, there is neither an error nor a warning, and what was not asked is said."""
    found = backup.check("--offline")
    assert problems(found) == []
    assert {one["check"] for one in found if one["severity"] == "skipped"} == {"offline"}


ELSEWHERE = {
    "configuration": "with an invalid configuration no check runs at all: tests/test_config.py",
    "asked": "only a full disk breaks it",
    "postmap-is-there": "the programs of this host stay",
    "no-postfix": "not a misconfiguration: test_run.test_no_postfix",
    "not-redirected": "takes a Postfix of 3.11 or later: test_run.test_hash_where_it_is_leaving",
    "lag": "reports, and finds nothing wrong: test_doubt",
    "data-is-dated": "takes a server that tells no time: tests/sources/http/test_age.py",
    "data-unchanged": "takes a month: tests/test_content_age.py",
    "recipients-are-listed": "takes a recipe that leaves something out: tests/sources/http/test_leaves_out.py",
    "domain-not-relayed": "takes a DNS server: test_not_relayed",
    "offline": "reports what was not to be asked: test_a_right_one",
    "mx-records": "takes a DNS server: the table of test_dns",
    "verdicts": "takes a running Postfix whose configuration is newer than it: test_smtp",
}
"""The checks without a row here, and why."""


def test_each_check_has_a_row() -> None:
    """Each registered check has a row above, or a reason why not; and each row is of a registered check."""
    rows = {case.check for case in CASES.values()}
    registered = {check.id for check in checks.registered()}
    assert rows <= registered
    assert registered - rows == ELSEWHERE.keys()


RIGHT: dict[str, Deed] = {
    "a doubt table": in_doubt(),
    "a doubt table beside restrictions of a host's own": both(
        in_doubt(),
        table(
            "senders", "hash", "x@example.net REJECT\n", smtpd_sender_restrictions="check_sender_access TABLE $lines"
        ),
        main_cf(
            lines=f"reject_unknown_sender_domain, check_policy_service {{ unix:private/x, timeout=10s }} {FORM_C}",
            smtpd_client_restrictions="permit_mynetworks, reject_rbl_client bl.example.net",
            smtpd_recipient_restrictions="reject_unauth_destination, reject_unlisted_recipient",
        ),
    ),
    "a doubt table in a class": both(
        in_doubt(smtpd_sender_restrictions="ours"), main_cf(smtpd_restriction_classes="ours", ours=FORM_C)
    ),
    "a doubt table where unlisted recipients are rejected by it alone": in_doubt(smtpd_reject_unlisted_recipient="no"),
    "a doubt table by the list for recipients, as it must be": in_doubt(
        smtpd_sender_restrictions=None,
        smtpd_recipient_restrictions=f"{ASKED}, reject_unauth_destination",
        smtpd_delay_reject="no",
    ),
    "a doubt table, and the map by way of the proxy": in_doubt(
        smtpd_sender_restrictions=FORM_C.replace("MAP", "proxy:MAP"), relay_recipient_maps="proxy:MAP"
    ),
    "relay_domains of a table, by a leading dot": both(
        people("u@sub.example.com"),
        table("domains", "hash", "example.com x\n.example.com x\nexample.org x\n", relay_domains="TABLE"),
        main_cf(parent_domain_matches_subdomains=""),
    ),
    "relay_domains of a file, and of a parameter": both(
        domains_file("# ours\nexample.com\n"), main_cf(relay_domains="$config_directory/../domains $x", x="example.org")
    ),
    "the map by way of the proxy": main_cf(relay_recipient_maps="proxy:MAP"),
    "what Postfix restricts by itself": main_cf(smtpd_relay_restrictions=None, smtpd_recipient_restrictions=None),
    "restrictions in a class": main_cf(
        smtpd_restriction_classes="ours",
        ours="permit_mynetworks, reject_unauth_destination",
        smtpd_relay_restrictions="ours",
        smtpd_recipient_restrictions="",
    ),
    "a catch-all that is permitted": both(settings(catch_all=["example.org"]), people("@example.org")),
    "extensions, and a delimiter": both(people("anna+lists@example.com"), main_cf(recipient_delimiter="+-")),
    "both forms of an IDN domain": both(
        settings(relay_domains=["example.com", "example.org", "xn--bcher-kva.example"]),
        people("u@bücher.example", "postmaster@bücher.example"),
        main_cf(relay_domains="example.com example.org xn--bcher-kva.example BÜCHER.example"),
    ),
    "aliases of a domain's own": table("virtual", "hash", "x@example.com y@example.net\n", virtual_alias_maps="TABLE"),
    "local users": main_cf(mydestination="$myhostname, localhost", local_recipient_maps=None),
    "an index that another hand made of the same text": index_by_hand,
    "domains_map": both(relayed_by_the_map, people("u@sub.example.com")),
    "tables that have none of ours, and one in brackets": both(
        table("old", "hash", "x@example.net y@example.net\n", virtual_alias_maps="TABLE", canonical_maps="proxy:TABLE"),
        main_cf(transport_maps="inline:{{example.net=error:gone}}", mydestination="$myhostname, [2001:db8::1]"),
        main_cf(local_recipient_maps=None),
    ),
    "networks of our own": main_cf(
        mynetworks="127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128, 10.0.0.0/8, 172.16.0.0/12 192.168.0.0/16 "
        "100.64.0.0/10 [fc00::]/7 [fe80::]/10 198.51.100.0/24 198.18.0.0/15 [2001:db8::]/32 !0.0.0.0/0 192.0.2.1",
        **TRUSTING,
    ),
    "networks of our own, in a table": both(
        table("networks", "cidr", "10.0.0.0/8 OK\n192.0.2.0/24 OK\n2001:db8::/32 OK\n", mynetworks="TABLE"),
        main_cf(**TRUSTING),
    ),
    "networks as Postfix has them by itself": main_cf(mynetworks=None, **TRUSTING),
    "unlisted recipients are rejected before they are relayed": main_cf(
        smtpd_reject_unlisted_recipient="no",
        smtpd_relay_restrictions="permit_mynetworks, reject_unlisted_recipient, reject_unauth_destination",
    ),
    "what is for filters and for submission in master.cf": lines_of(
        "master.cf",
        "smtp inet n - n - - smtpd -o receive_override_options=no_address_mappings",
        "submission inet n - n - - smtpd -o relay_recipient_maps= -o smtpd_recipient_restrictions=permit",
        "127.0.0.1:10025 inet n - n - - smtpd -o receive_override_options=no_unknown_recipient_checks",
        "smtpd pass - - n - - smtpd -o mynetworks=192.0.2.0/24",
    ),
    "unlisted recipients are rejected by a restriction": main_cf(
        smtpd_reject_unlisted_recipient="no",
        smtpd_recipient_restrictions="reject_unlisted_recipient, reject_unauth_destination",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_also_right(name: str, backup: Backup) -> None:
    """What is right in another way is right, and nothing is said against it."""
    RIGHT[name](backup)
    assert problems(backup.check("--offline")) == []


@pytest.mark.parametrize("name", CASES)
def test_a_misconfiguration(name: str, backup: Backup) -> None:
    """It is named, with its mend; and the mend is one."""
    case = CASES[name]
    args = ("--smtp", f"127.0.0.1:{backup.postfix.port}")
    case.deed(backup)
    if case.live:
        settle(backup.postfix.config_directory / "main.cf")
        backup.postfix.start()
        assert backup.postfix.verdict(case.live[0]).code == case.live[1]
    found = problems(backup.check("--offline", *args))
    (one, *_) = [one for one in found if one["check"] == case.check and case.subject in one["subject"]]
    assert one["severity"] == case.severity
    assert one["mend"].startswith(case.mend)
    if case.also:
        case.also(backup)
    backup.type_in(one["mend"])
    left = problems(backup.check("--offline", *args))
    assert [other for other in left if (other["check"], other["subject"]) == (one["check"], one["subject"])] == []
    for mend in dict.fromkeys(other["mend"] for other in left):  # what came to light only then, or was broken with it
        backup.type_in(mend)
    assert left == [] or problems(backup.check("--offline", *args)) == []
    if case.live:
        backup.postfix.reload()
        assert backup.postfix.verdict(case.live[0]).code == case.live[2]
