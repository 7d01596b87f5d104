"""`syncagent explain` says what smtpd answers: each state of main.cf and of its tables, with a real one."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncagent.cli.explain import explain
from syncagent.config import load as config
from tests.checks import Backup
from tests.support.need import need_postfix
from tests.support.postmap import postmap_build, settle

MORE = ("info@sub.example.com", "owner@example.com", '"john doe"@example.com', "+lead@example.com", "root@example.com")
KNOWN, UNKNOWN, FOREIGN = "anna@example.com", "nobody@example.com", "who@example.net"


@dataclass(frozen=True)
class Row:
    """A state: what main.cf has (``{maps}``: the directory of the tables), what is done to files, and the answers."""

    name: str
    answers: dict[str, int]
    says: str = ""
    files: Callable[[Path], object] = field(default=lambda _: None)
    parameters: dict[str, str] = field(default_factory=dict)


def row(name: str, answers: dict[str, int], says: str = "", **parameters: str) -> Row:
    """Give a state of main.cf alone."""
    return Row(name, answers, says, parameters=parameters)


def without(suffix: str) -> Callable[[Path], None]:
    """Give what takes a file of the map away."""
    return lambda maps: (maps / f"relay_recipients{suffix}").unlink()


def patterns(maps: Path) -> None:
    """Write a table of regular expressions, of which one would match a key that such a table is not asked for."""
    (maps / "patterns").write_text("/^anna@example.com$/ OK\n/^@example.com$/ OK\n")
    settle(maps / "patterns")


def doubt(*keys: str) -> Callable[[Path], None]:
    """Give what makes the doubt table, of these keys and the probe."""

    def write(maps: Path) -> None:
        lines = [f"{key} DEFER_IF_REJECT 4.3.0 recipient list is being refreshed" for key in keys]
        staged = maps / ".staged"
        staged.mkdir()
        (staged / "doubt").write_text(
            "\n".join([*lines, "syncagent-doubt-probe@example.org DEFER_IF_REJECT 4.3.0 x\n"])
        )
        postmap_build(maps.parent / "config", f"lmdb:{staged / 'doubt'}")
        for made in sorted(staged.iterdir()):
            made.replace(maps / made.name)
        staged.rmdir()

    return write


def no_doubt(maps: Path) -> None:
    """Lose the doubt table."""
    for path in maps.glob("doubt*"):
        path.unlink()


def other_values(maps: Path) -> None:
    """Write a map that another hand made, with values that are not OK."""
    IN_DOUBT(maps)
    values = {
        KNOWN: "x",
        "ben@example.org": "1",
        "leo@example.org": "permit",
        "mia@example.com": "DUNNO",
        "z@example.com": "relay",
        "n@example.com": "550",
        "gone@example.org": "550 gone",
    }
    (maps / "other").write_text("".join(f"{address} {value}\n" for address, value in values.items()))
    postmap_build(maps.parent / "config", f"lmdb:{maps / 'other'}")


OURS = "lmdb:{maps}/relay_recipients"
DOUBT = "check_recipient_access lmdb:{maps}/doubt"
FORM_C = f"check_recipient_access {OURS}, {DOUBT}, reject_unlisted_recipient"
IN_DOUBT = doubt("example.com", ".example.com", "gone@example.org")
OTHER = "nobody@example.org"


def form_c(
    name: str,
    answers: dict[str, int],
    says: str = "",
    files: Callable[[Path], object] = IN_DOUBT,
    **parameters: str,
) -> Row:
    """Give a state of form C: example.com is in doubt, and one address of example.org."""
    lines = {"smtpd_sender_restrictions": FORM_C, "default_transport": "discard:"}
    return Row(f"form C: {name}", answers, says, files, lines | parameters)


ROWS = (
    row("all is right", {KNOWN: 250, UNKNOWN: 550, FOREIGN: 554, "info@sub.example.com": 250, "-a@example.com": 501}),
    row("not in relay_domains", {KNOWN: 554}, "not in relay_domains", relay_domains="example.org"),
    row(
        "subdomains only by name",
        {"info@sub.example.com": 554, KNOWN: 250},
        parent_domain_matches_subdomains="",
    ),
    row(
        "subdomains by a dot",
        {"info@sub.example.com": 250, KNOWN: 554},
        parent_domain_matches_subdomains="",
        relay_domains=".example.com",
    ),
    row("an exception", {"info@sub.example.com": 554, KNOWN: 250}, relay_domains="!sub.example.com, example.com"),
    Row("the index is gone", {KNOWN: 451, UNKNOWN: 451}, "relay_recipients", without(".lmdb")),
    Row("the text is gone", {KNOWN: 250, UNKNOWN: 550}, files=without("")),
    row("the table of domains is gone", {KNOWN: 451}, "No such file", relay_domains="lmdb:{maps}/missing"),
    row(
        "a table of domains behind is gone",
        {KNOWN: 250, UNKNOWN: 550, "ben@example.org": 451},
        relay_domains="example.com, lmdb:{maps}/missing",
    ),
    row("a file of domains", {KNOWN: 250, FOREIGN: 554}, relay_domains="{maps}/domains"),
    row("a file of domains is gone", {KNOWN: 451}, relay_domains="{maps}/missing"),
    row("no map", {UNKNOWN: 250}, "is empty", relay_recipient_maps=""),
    row(
        "another map",
        {KNOWN: 550, UNKNOWN: 250},
        "does not name",
        relay_recipient_maps="inline:{{nobody@example.com=OK}}",
    ),
    row("everybody", {UNKNOWN: 250, FOREIGN: 554}, "static:OK", relay_recipient_maps=f"{OURS}, static:OK"),
    row("by proxy", {KNOWN: 250, UNKNOWN: 550}, relay_recipient_maps=f"proxy:{OURS}"),
    row("a table before is gone", {KNOWN: 451}, "missing", relay_recipient_maps=f"hash:{{maps}}/missing, {OURS}"),
    row(
        "a table behind is gone",
        {KNOWN: 250, UNKNOWN: 451, "anna+x@example.com": 451},
        "missing",
        relay_recipient_maps=f"{OURS}, hash:{{maps}}/missing",
        recipient_delimiter="+",
    ),
    Row(
        "patterns are for whole addresses",
        {KNOWN: 250, UNKNOWN: 550, "anna+x@example.com": 550},
        files=patterns,
        parameters={"relay_recipient_maps": "regexp:{maps}/patterns", "recipient_delimiter": "+"},
    ),
    row("nobody is rejected", {UNKNOWN: 250}, "smtpd_reject_unlisted_recipient", smtpd_reject_unlisted_recipient="no"),
    row(
        "rejected by a restriction",
        {UNKNOWN: 550, KNOWN: 250},
        smtpd_reject_unlisted_recipient="no",
        smtpd_recipient_restrictions="reject_unauth_destination, reject_unlisted_recipient",
    ),
    row(
        "an alias for all",
        {UNKNOWN: 250},
        "virtual_alias_maps",
        virtual_alias_maps="inline:{{@example.com=a@example.net}}",
    ),
    row(
        "an alias for one",
        {UNKNOWN: 250, "x@example.com": 550},
        virtual_alias_maps="inline:{{nobody@example.com=a@example.net}}",
    ),
    row(
        "canonical for one",
        {UNKNOWN: 250},
        "canonical_maps",
        canonical_maps="inline:{{nobody@example.com=a@example.net}}",
    ),
    row("aliases are gone", {KNOWN: 451}, "virtual_alias", virtual_alias_maps="hash:{maps}/missing"),
    row(
        "aliases are gone, without their domains",
        {KNOWN: 451},
        "virtual_alias_maps",
        virtual_alias_maps="hash:{maps}/missing",
        virtual_alias_domains="",
    ),
    row("soft", {UNKNOWN: 450, KNOWN: 250, FOREIGN: 454, "-a@example.com": 401}, soft_bounce="yes"),
    row("450", {UNKNOWN: 450}, unknown_relay_recipient_reject_code="450"),
    row("another code for the foreign", {FOREIGN: 550}, relay_domains_reject_code="550"),
    row(
        "its own domain",
        {KNOWN: 550, "root@example.com": 250, "postmaster@example.com": 250, "double-bounce@example.com": 250},
        "mydestination",
        mydestination="example.com",
        local_recipient_maps="unix:passwd.byname",
    ),
    row("its own domain, for all", {UNKNOWN: 250}, "is empty", mydestination="example.com", local_recipient_maps=""),
    row(
        "mailboxes of its own",
        {KNOWN: 550, UNKNOWN: 250},
        "virtual_mailbox_domains",
        virtual_mailbox_domains="example.com",
        virtual_mailbox_maps="inline:{{nobody@example.com=x}}",
    ),
    row(
        "aliases of its own",
        {KNOWN: 550, UNKNOWN: 250},
        "virtual_alias_domains",
        virtual_alias_domains="example.com",
        virtual_alias_maps="inline:{{nobody@example.com=a@example.net}}",
    ),
    row(
        "extensions",
        {
            "Anna+x@Example.com": 250,
            '"john doe+x"@example.com': 250,
            "+lead+x@example.com": 550,
            "nobody+x@example.com": 550,
        },
        recipient_delimiter="+",
    ),
    row("none", {"anna+x@example.com": 550, "double-bounce@example.com": 550}),
    row(
        "a hyphen",
        {"anna-x@example.com": 250, "owner-anna@example.com": 550, "anna-request@example.com": 550},
        recipient_delimiter="-",
    ),
    row(
        "a hyphen, nothing special",
        {"owner-anna@example.com": 250, "anna-request@example.com": 250, "double-bounce@example.com": 550},
        recipient_delimiter="-",
        owner_request_special="no",
    ),
    row("routed", {"a%b@example.com": 554, "a!b@example.com": 554}, "allow_untrusted_routing"),
    row("routed as they like", {"a%b@example.com": 550}, allow_untrusted_routing="yes"),
    row(
        "an internationalised domain in one form",
        {"postmaster@xn--bcher-kva.example": 250, "postmaster@bücher.example": 554},
        relay_domains="xn--bcher-kva.example",
    ),
    row(
        "an internationalised domain in both forms",
        {"postmaster@xn--bcher-kva.example": 250, "Postmaster@BÜCHER.example": 250, "nobody@bücher.example": 550},
        relay_domains="xn--bcher-kva.example, bücher.example",
    ),
    row("a user with a hyphen", {"-a@example.com": 550}, allow_min_user="yes"),
    form_c(
        "all is right",
        {
            KNOWN: 250,
            UNKNOWN: 450,
            OTHER: 550,
            FOREIGN: 554,
            "ben@example.org": 250,
            "gone@example.org": 450,
            "Gone+x@Example.org": 450,
            "syncagent-doubt-probe@example.org": 450,
            "info@sub.example.com": 250,
            "x@sub.example.com": 450,
            "-a@example.com": 501,
            "a%b@example.com": 450,
        },
        "Postfix answers 450 (in doubt: the doubt table has gone@example.org): the map does not have it",
        recipient_delimiter="+",
    ),
    form_c("nothing is in doubt", {KNOWN: 250, UNKNOWN: 550, FOREIGN: 554, "a%b@example.com": 550}, files=doubt()),
    form_c("the doubt table is gone", {KNOWN: 250, UNKNOWN: 451, FOREIGN: 451}, "maps/doubt", files=no_doubt),
    form_c(
        "subdomains only by a dot",
        {"x@sub.example.com": 450, UNKNOWN: 550},
        files=doubt(".example.com"),
        parent_domain_matches_subdomains="relay_domains",
    ),
    form_c("subdomains by name", {"x@sub.example.com": 450, UNKNOWN: 450}, files=doubt("example.com")),
    form_c(
        "an internationalised domain in one form",
        {"nobody@xn--bcher-kva.example": 450, "nobody@bücher.example": 550},
        files=doubt("xn--bcher-kva.example"),
        relay_domains="xn--bcher-kva.example, bücher.example",
    ),
    form_c("senders are judged before there is a recipient", {UNKNOWN: 550, KNOWN: 250}, smtpd_delay_reject="no"),
    form_c("another code", {UNKNOWN: 550}, "Postfix answers 550 (in doubt", access_map_defer_code="550"),
    form_c("soft", {UNKNOWN: 450, OTHER: 450, FOREIGN: 454}, soft_bounce="yes"),
    form_c("450", {UNKNOWN: 450, OTHER: 450}, unknown_relay_recipient_reject_code="450"),
    form_c("everything is permitted before", {UNKNOWN: 550}, smtpd_sender_restrictions=f"permit, {FORM_C}"),
    form_c(
        "unlisted ones are rejected before",
        {UNKNOWN: 550, KNOWN: 250},
        smtpd_helo_restrictions="reject_unlisted_recipient",
    ),
    form_c(
        "unlisted ones are only warned of before",
        {UNKNOWN: 450},
        smtpd_sender_restrictions=f"warn_if_reject reject_unlisted_recipient {FORM_C}",
    ),
    form_c(
        "nobody is rejected elsewhere", {UNKNOWN: 450, OTHER: 550, KNOWN: 250}, smtpd_reject_unlisted_recipient="no"
    ),
    form_c(
        "in a class",
        {UNKNOWN: 450, OTHER: 550, KNOWN: 250},
        smtpd_restriction_classes="ours",
        ours=FORM_C,
        smtpd_sender_restrictions="reject_non_fqdn_sender, ours",
    ),
    form_c("no map", {UNKNOWN: 250, FOREIGN: 554}, "is empty", relay_recipient_maps=""),
    form_c("without its end", {UNKNOWN: 550}, smtpd_sender_restrictions=DOUBT),
    form_c(
        "the map has other values than OK",
        {
            KNOWN: 451,
            "ben@example.org": 250,
            "leo@example.org": 250,
            "mia@example.com": 250,
            "z@example.com": 250,
            "n@example.com": 250,
            "gone@example.org": 550,
        },
        "other in smtpd_sender_restrictions has anna@example.com x",
        files=other_values,
        relay_recipient_maps="lmdb:{maps}/other",
        smtpd_sender_restrictions=FORM_C.replace("/relay_recipients", "/other"),
    ),
    Row(
        "form A",
        {KNOWN: 250, UNKNOWN: 450, OTHER: 550, FOREIGN: 554, "gone@example.org": 450},
        "450 (in doubt: ",
        IN_DOUBT,
        {"smtpd_recipient_restrictions": f"{DOUBT}, reject_unauth_destination"},
    ),
    Row(
        "form A: a bare table",
        {KNOWN: 250, UNKNOWN: 450, OTHER: 550, FOREIGN: 554},
        files=IN_DOUBT,
        parameters={"smtpd_recipient_restrictions": "lmdb:{maps}/doubt, reject_unauth_destination"},
    ),
    Row(
        "form A: the doubt table is gone",
        {KNOWN: 451, UNKNOWN: 451, FOREIGN: 554},
        "maps/doubt",
        no_doubt,
        {"smtpd_recipient_restrictions": f"{DOUBT}, reject_unauth_destination"},
    ),
    Row(
        "form A: nobody is rejected",
        {UNKNOWN: 250},
        files=IN_DOUBT,
        parameters={
            "smtpd_recipient_restrictions": f"{DOUBT}, reject_unauth_destination",
            "smtpd_reject_unlisted_recipient": "no",
        },
    ),
)


@pytest.fixture(scope="module", name="running")
def fixture_running() -> Iterator[Backup]:
    """A backup MX that is all right, and runs."""
    need_postfix("lmdb")
    made = Backup.make()
    made.publish()
    made.add(*MORE, "postmaster@xn--bcher-kva.example")
    made.configure("relay_domains", ["example.com", "example.org", "bücher.example"])
    made.configure("doubt_map", f"lmdb:{made.postfix.map_path.with_name('doubt')}")
    made.sync()
    with made.postfix:
        yield made


@pytest.fixture(name="backup")
def fixture_backup(running: Backup) -> Iterator[Backup]:
    """Give it, and put it right again after the test."""
    main_cf = running.postfix.config_directory / "main.cf"
    before = main_cf.read_text()
    yield running
    main_cf.write_text(before)
    text = running.postfix.map_path
    if not (text.exists() and text.with_suffix(".lmdb").exists()):
        running.sync()


def explained(backup: Backup, address: str) -> str:
    """Give what `explain` says that Postfix answers."""
    return explain(config.load(backup.file), address).verdict


@pytest.mark.parametrize("state", ROWS, ids=lambda state: state.name)
def test_explain_says_what_smtpd_answers(backup: Backup, state: Row) -> None:
    """Whatever main.cf has and whatever became of the tables, both give the same code."""
    maps = backup.postfix.map_path.parent
    (maps / "domains").write_text("example.com example.org\n")
    state.files(maps)
    parameters = {name: value.replace("{maps}", str(maps)) for name, value in state.parameters.items()}
    backup.postfix.set(**{"recipient_delimiter": "", **parameters})
    backup.postfix.reload()
    codes = {address: backup.postfix.verdict(address).code for address in state.answers}
    assert codes == state.answers, "the row is wrong"
    verdicts = {address: explained(backup, address) for address in state.answers}
    found = {address: re.match(r"Postfix answers (\d{3})", verdict) for address, verdict in verdicts.items()}
    assert {address: match and int(match[1]) for address, match in found.items()} == codes, verdicts
    assert any(state.says in verdict for verdict in verdicts.values()), verdicts
