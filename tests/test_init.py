"""`syncagent init`, with a real Postfix's postconf: what it writes, says and asks, and what it leaves alone."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncagent.addresses import u_labels, within
from syncagent.cli import init
from syncagent.config import load as config
from syncagent.config import tables
from syncagent.errors import ExitCode
from syncagent.postfix import doubt_lines
from syncagent.postfix import main_cf as mainconf
from syncagent.values.types import Domain, MapName
from tests.support.clock import clock_at
from tests.support.doubt import run_switch
from tests.support.need import need, need_postfix
from tests.support.postfix import PrivatePostfix, available_map_types
from tests.support.postmap import postmap_build, postmap_keys, run_postfix, settle
from tests.support.programs import PATIENCE, find_program, wait_until
from tests.support.run import syncagent
from tests.support.terminal import Terminal
from tests.support.throwaway import ThrowawayHost

Begin = Callable[..., PrivatePostfix]
PROGRAM = (sys.executable, "-m", "syncagent")
DEFAULT = "lmdb:/var/lib/syncagent/relay_recipients"
DOUBT = "lmdb:/var/lib/syncagent/doubt"


@pytest.fixture
def postfix() -> Iterator[Begin]:
    """Give what makes a Postfix with these parameters in main.cf, not running, gone after the test."""
    need_postfix("lmdb")
    need(
        "a host on which syncagent is not installed, since init makes the doubt table",
        not Path(DOUBT[5:]).parent.exists(),
    )
    made: list[PrivatePostfix] = []

    def make(**parameters: str | None) -> PrivatePostfix:
        made.append(PrivatePostfix([]))
        made[-1].set(**({"relay_domains": None} | parameters))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def begun(here: PrivatePostfix, *args: str) -> tuple[Path, str]:
    """Run init for a Postfix; give the configuration that it wrote, and what it said."""
    file = here.directory / "etc" / "syncagent" / "syncagent.toml"
    said = syncagent("init", "--config-directory", here.config_directory, *args, config=file, check=0)
    assert said.stderr == ""
    return file, said.stdout


def parameter(here: PrivatePostfix, name: str) -> list[str]:
    """Give the entries of a parameter of main.cf, as Postfix understands it."""
    value = run_postfix("postconf", "-c", here.config_directory, "-xh", name).decode()
    return mainconf.entries(value)


def commands(said: str, *programs: str) -> list[str]:
    """Give the commands of these programs among those that are left to be typed."""
    left = said.partition("To be done next")[2]
    return [line.strip() for line in left.splitlines() if line.startswith(tuple(f"  {name} " for name in programs))]


def lines_of_doubt(table: str, doubt: str) -> list[str]:
    """Return the words of the three restrictions by which smtpd asks the doubt table."""
    access = "check_recipient_access"
    return [access, table, access, doubt, "reject_unlisted_recipient"]


def typed(line: str) -> None:
    """Do as a line says, in a shell."""
    program, rest = line.split(maxsplit=1)
    subprocess.run(["sh", "-ec", f"{find_program(program)} {rest}"], check=True, timeout=PATIENCE, capture_output=True)


def table(here: PrivatePostfix, name: str, kind: str, text: str) -> Path:
    """Make a lookup table."""
    path = here.directory / name
    path.write_text(text)
    settle(path)
    if kind != "texthash":
        postmap_build(here.config_directory, f"{kind}:{path}")
    return path


def test_on_a_fresh_postfix(postfix: Begin) -> None:
    """With nothing in main.cf the table is ours, and the domains are an example that is said to be one, loudly."""
    here = postfix()
    file, said = begun(here)
    read = config.load(file)
    assert read.postfix.map.spelled == DEFAULT
    assert read.postfix.relay_domains == ("example.com",)
    assert read.postfix.config_directory == here.config_directory
    assert "REPLACE THIS" in file.read_text()
    assert "note: relay_domains is not known: example.com is there as a placeholder" in said
    assert f"# in {file}, replace example.com" in said
    lines = commands(said, "postconf")
    assert [line.partition("-e ")[2].partition(" =")[0].strip("'") for line in lines] == [
        "relay_recipient_maps",
        "smtpd_sender_restrictions",
    ], "the example domain is not to be typed into main.cf"
    for line in lines:
        typed(line)
    assert parameter(here, "relay_recipient_maps") == [DEFAULT]
    assert parameter(here, "smtpd_sender_restrictions") == lines_of_doubt(DEFAULT, DOUBT)
    assert parameter(here, "relay_domains") == []


def test_a_default_that_is_mydestination(postfix: Begin) -> None:
    """Where relay_domains is mydestination, as in an old main.cf, it has no domain to be a backup MX for."""
    here = postfix(compatibility_level="0", mydestination="mx.example.net, localhost")
    file, said = begun(here)
    assert "relay_domains has mx.example.net, which Postfix delivers itself" in said
    assert config.load(file).postfix.relay_domains == ("example.com",)


def test_what_is_in_force_by_hand(postfix: Begin) -> None:
    """Inline domains, however they are parted and spelled, are taken as they come; nothing is left to do about them."""
    here = postfix(relay_domains="Example.ORG,example.com bücher.example, xn--bcher-kva.example")
    file, said = begun(here)
    assert config.load(file).postfix.relay_domains == ("example.org", "example.com", "xn--bcher-kva.example")
    assert "REPLACE" not in file.read_text()
    assert not [line for line in commands(said, "postconf") if "relay_domains" in line]


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb", "texthash", "proxy:hash"])
def test_domains_in_a_table(kind: str, postfix: Begin) -> None:
    """The domains of a table that can be listed are taken, those of an index without a listing from its text."""
    here = postfix()
    bare = kind.removeprefix("proxy:")
    if bare not in available_map_types(here.config_directory):
        pytest.skip(f"this Postfix has no {bare} tables")
    path = table(here, "domains", bare, "# ours\nexample.org x\nexample.com\n  x\n")
    here.set(relay_domains=f"{kind}:{path}, example.net")
    file, said = begun(here)
    assert config.load(file).postfix.relay_domains == ("example.com", "example.org", "example.net")
    assert "note:" not in said


def test_domains_in_a_file_and_what_cannot_be_listed(postfix: Begin) -> None:
    """A file of patterns is read; what can't be listed, an exception, a bare `.domain` and a missing file are named."""
    here = postfix()
    (here.directory / "patterns").write_text("# ours\nexample.org, example.com\n")
    odd = ["!not.example.com", "ldap:/etc/postfix/domains.cf", "static:all", "/nowhere/domains", ".example.net"]
    here.set(relay_domains=f"{here.directory}/patterns {' '.join(odd)}")
    file, said = begun(here)
    assert config.load(file).postfix.relay_domains == ("example.org", "example.com")
    for entry in odd:
        assert re.search(rf"^note: relay_domains has '?{re.escape(entry)}'?, ", said, re.MULTILINE), entry


def test_many_domains_are_a_line_each(postfix: Begin) -> None:
    """More than a few stand below each other."""
    names = [f"d{number}.example" for number in range(20)]
    file, _ = begun(postfix(relay_domains=" ".join(names)))
    assert list(config.load(file).postfix.relay_domains) == names
    assert '    "d7.example",\n' in file.read_text()


MAPS = [
    ("hash:/nowhere/x/relay_recipients", "hash:/nowhere/x/relay_recipients", ""),
    ("proxy:btree:/var/lib/x/r", "proxy:btree:/var/lib/x/r", ""),
    ("texthash:/var/lib/x/r", "texthash:/var/lib/x/r", ""),
    (
        "ldap:/etc/postfix/r.cf",
        DEFAULT,
        "note: relay_recipient_maps is ldap:/etc/postfix/r.cf now: make its",
    ),
    (
        "$alias_maps, ldap:/r.cf cdb:/m/r, hash:/m/s",
        "cdb:/m/r",
        "also has ldap:/r.cf, hash:/m/s, whose recipients stay",
    ),
]


@pytest.mark.parametrize(("now", "kept", "told"), MAPS)
def test_the_table_that_is_in_force(now: str, kept: str, told: str, postfix: Begin) -> None:
    """The first table that syncagent can write stays, others are named; what is to be typed puts ours in force."""
    here = postfix(relay_recipient_maps=now, relay_domains="example.com")
    file, said = begun(here)
    assert config.load(file).postfix.map.spelled == kept
    assert told in said
    assert ("note: relay_recipient_maps" in said) is bool(told)
    lines = commands(said, "postconf")
    assert any(" 'relay_recipient_maps = " in line for line in lines) is (kept == DEFAULT)
    assert len(lines) == 1 + (kept == DEFAULT)
    for line in lines:
        typed(line)
    beside = kept.rpartition(":")[2].rpartition("/")[0]
    assert parameter(here, "smtpd_sender_restrictions") == lines_of_doubt(
        kept.removeprefix("proxy:"), f"lmdb:{beside}/doubt"
    )
    assert kept in parameter(here, "relay_recipient_maps")
    if kept == DEFAULT:
        assert parameter(here, "relay_recipient_maps") == [DEFAULT]


def test_a_table_beside_others_is_told_with_its_mend(postfix: Begin) -> None:
    """Typed when the time has come, the command in the note leaves our table alone in force."""
    here = postfix(relay_recipient_maps="ldap:/r.cf, hash:/m/s")
    _, said = begun(here)
    (line,) = re.findall(r"^note: relay_recipient_maps also .*: (postconf .*)$", said, re.MULTILINE)
    typed(line)
    assert parameter(here, "relay_recipient_maps") == ["hash:/m/s"]


def test_domains_by_flag(postfix: Begin) -> None:
    """Domains that main.cf lacks are added to what it has, in both forms; those that only it has are warned of."""
    here = postfix(relay_domains="example.net, $mydestination, example.org", mydestination="mx.example.net")
    file, said = begun(here, "--domain", "sub.example.org", "--domain", "Bücher.example", "--map", "hash:/m/r s")
    read = config.load(file).postfix
    assert read.relay_domains == ("sub.example.org", "xn--bcher-kva.example")
    assert read.map.spelled == "hash:/m/r s"
    assert "note: /m/r s: a list of main.cf cannot name it" in said
    assert "note: example.net, example.org: in relay_domains in main.cf, but not in the configuration" in said
    for line in commands(said, "postconf"):
        typed(line)
    now = frozenset(parameter(here, "relay_domains"))
    assert now == {"example.net", "mx.example.net", "example.org", "xn--bcher-kva.example", "bücher.example"}
    assert all(within(form, now) for domain in read.relay_domains for form in (domain, u_labels(domain)))
    raw = run_postfix("postconf", "-c", here.config_directory, "-h", "relay_domains").decode()
    assert "$mydestination" in raw, "what main.cf has stays as it is spelled"


def test_a_type_that_is_not_here(postfix: Begin) -> None:
    """A table of a type that this Postfix lacks, and a table among Postfix's own files, are doubted."""
    here = postfix()
    types = available_map_types(here.config_directory)
    start = init.look(here.directory / "x.toml", here.config_directory)
    assert start.main.types == types
    start.main.types = frozenset({"hash", "cdb"})
    assert "this Postfix has no lmdb tables: apt-get install postfix-lmdb, or choose another" in "\n".join(
        init._doubts(start)
    )
    start.map = MapName.parse(f"hash:{here.config_directory}/relay_recipients")
    said = "\n".join(init._doubts(start))
    assert "no lmdb tables here" in said
    assert f"{here.config_directory} belongs to root" in said


def test_where_lmdb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lmdb the table is of the next type that this Postfix has; 450 in the first week is for a person to do."""
    monkeypatch.setattr(
        mainconf.MainConf, "read", lambda _: mainconf.MainConf(tmp_path, types=frozenset({"cdb", "hash"}))
    )
    start = init.look(tmp_path / "x.toml", None)
    assert start.map.spelled == "hash:/var/lib/syncagent/relay_recipients"
    said = "\n".join(init.write(start))
    assert "note: no lmdb tables here: unknown recipients get 550 even in doubt: apt-get install postfix-lmdb" in said
    assert "-e 'unknown_relay_recipient_reject_code = 450'" in said
    assert "smtpd_sender_restrictions" not in said
    assert config.load(tmp_path / "x.toml").postfix.doubt_map is None


def test_without_postfix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without postconf on the host it works all the same, and says what it did not find."""
    monkeypatch.setattr("syncagent.postfix.commands.tool", lambda _: None)
    start = init.look(tmp_path / "syncagent.toml", None)
    start.domains = (Domain.parse("example.org"),)
    said = "\n".join(init.write(start))
    assert "note: postconf is not installed here" in said
    assert "postconf -e 'relay_domains = example.org'" in said
    read = config.load(tmp_path / "syncagent.toml").postfix
    assert (read.relay_domains, read.map.spelled) == (("example.org",), DEFAULT)


def test_a_directory_named_from_here(tmp_path: Path, postfix: Begin) -> None:
    """A relative configuration directory is written as an absolute one, since the configuration may lie elsewhere."""
    here = postfix(relay_domains="example.net")
    file = tmp_path / "syncagent.toml"
    syncagent("init", "--config-directory", "config", config=file, cwd=here.directory, check=0)
    assert config.load(file).postfix.config_directory == here.config_directory
    assert config.load(file).postfix.relay_domains == ("example.net",)


def test_without_main_cf(tmp_path: Path, postfix: Begin) -> None:
    """A directory without main.cf is named, with what postconf says of it."""
    postfix()
    file = tmp_path / "syncagent.toml"
    done = syncagent("init", "--config-directory", tmp_path, "--domain", "example.org", config=file, check=0)
    assert re.search(rf"^note: postconf -c {tmp_path} failed: .*No such file", done.stdout, re.MULTILINE)
    assert config.load(file).postfix.relay_domains == ("example.org",)


def test_done_as_it_says(postfix: Begin) -> None:
    """Following every line that is printed, in their order, ends with a Postfix that answers by the table."""
    here = postfix(relay_domains="example.org")
    before = os.umask(0o077)  # what the agent's user has to read is for all to read, however careful root is
    try:
        file, said = begun(here, "--map", f"lmdb:{here.directory}/var/relay_recipients", "--domain", "example.com")
    finally:
        os.umask(before)
    for path in (file, file.with_name("recipients")):
        assert path.stat().st_mode & 0o777 == 0o644
    assert file.parent.stat().st_mode & 0o777 == 0o755
    file.write_text(file.read_text().replace('#directory = "/var/lib', f'directory = "{here.directory}/lib'))
    refused = syncagent("sync", config=file)
    assert refused.returncode in {ExitCode.TEMPORARY, ExitCode.HELD, ExitCode.CANNOT_PUBLISH}
    assert "NOT published" in refused.stdout
    assert "extra" in refused.stderr, "it says which source has nothing"
    assert not (here.directory / "var" / "relay_recipients").exists()
    with file.with_name("recipients").open("a") as recipients:
        recipients.write("Info@example.com\n")
    checked = []
    for line in commands(said, "install", "syncagent", "postconf", "postfix"):
        if line.startswith("syncagent"):
            assert line.split()[1:3] == ["--config", str(file)]
            offline = ["--offline"] if line.endswith(" check") else []
            checked.append(syncagent(*line.split()[1:], *offline).returncode)
        elif line.startswith("postfix"):
            settle(here.config_directory / "main.cf")
        else:
            typed(line)
    assert checked[-1] == 0, "published"
    here.start()
    assert here.verdict("info@example.com").code == 250
    assert here.verdict("nobody@example.com").code == 450
    assert problems(file) == {"relayed-domains-are-ours", "doubt-switch"}, "as it said: what is still to be done"
    assert "# then start the agent, and the switch that answers 450 should it stop" in said
    run_switch(str(here.directory / "var"))
    assert problems(file) == {"relayed-domains-are-ours"}, "as it said: a relay domain that the configuration lacks"
    typed(f"postconf -c {here.config_directory} -e 'relay_domains = example.com'")
    assert problems(file) == set()


SENDERS = {
    "stock": ("", []),
    "others": (
        "reject_non_fqdn_sender check_sender_access inline:{{bad@example.net=REJECT}}, permit",
        ["reject_non_fqdn_sender", "check_sender_access", "inline:{{bad@example.net=REJECT}}"],
    ),
    "refused before": (
        "reject_unlisted_recipient, warn_if_reject reject_unlisted_recipient,reject_non_fqdn_sender",
        ["reject_non_fqdn_sender"],
    ),
}
"""smtpd_sender_restrictions as a host has them, and what of them stays before the three lines."""


@pytest.mark.parametrize("kind", SENDERS)
def test_the_doubt_table_is_made_first(kind: str, postfix: Begin) -> None:
    """It is there before main.cf names it; typed in order, the steps make 450 of 550, until doubt_new is over."""
    before, stay = SENDERS[kind]
    own = {"smtpd_sender_restrictions": before} if before else {}
    here = postfix(relay_domains="example.com", default_transport="discard:", **own)
    place = here.directory / "maps"
    place.mkdir()
    umask = os.umask(0o077)
    try:
        file, said = begun(here, "--map", f"lmdb:{place}/relay_recipients")
    finally:
        os.umask(umask)
    assert f"made lmdb:{place}/doubt: " in said
    for name in ("doubt", "doubt.lmdb", "doubt-all", "doubt-all.lmdb"):
        assert (place / name).stat().st_mode & 0o777 == 0o644, name
    assert (place / "doubt-all").read_text().startswith("# doubt-all of doubt\n")
    keys = {key.decode() for key in postmap_keys(here.config_directory, f"lmdb:{place}/doubt")}
    assert {"example.com", ".example.com"} <= keys
    file.write_text(file.read_text().replace('#directory = "/var/lib', f'directory = "{here.directory}/lib'))
    file.with_name("recipients").write_text("info@example.com\n")
    for line in commands(said, "syncagent", "postconf"):
        if line.startswith("syncagent"):
            syncagent(*line.split()[1:], *(["--offline"] if line.endswith(" check") else []), check=None)
        else:
            typed(line)
    table = f"lmdb:{place}/relay_recipients"
    assert parameter(here, "smtpd_sender_restrictions") == [*stay, *lines_of_doubt(table, f"lmdb:{place}/doubt")]
    here.start()
    assert asked(here) == [250, 450, 554]
    again = syncagent(
        "init", "--config-directory", here.config_directory, config=file.with_name("again.toml"), check=73
    )
    assert "recipients exists already" in again.stderr
    file.with_name("recipients").rename(file.with_name("kept"))
    again = syncagent("init", "--config-directory", here.config_directory, config=file.with_name("again.toml"), check=0)
    assert not commands(again.stdout, "postconf"), "main.cf has it all"
    file.with_name("kept").rename(file.with_name("recipients"))
    for minutes in (0, 5):  # the first one writes the map anew, since main.cf was changed; no line is dropped with that
        syncagent("sync", config=file, env=clock_at(time.time() + 8 * 86400 + 60 * minutes), check=0)
    assert wait_until(lambda: asked(here) == [250, 550, 554])


@pytest.mark.parametrize(
    ("before", "stay"),
    [
        ("", ""),
        ("permit", ""),
        (
            "reject_non_fqdn_sender reject_unknown_sender_domain,permit",
            "reject_non_fqdn_sender, reject_unknown_sender_domain",
        ),
        ("hash:/etc/postfix/senders", "hash:/etc/postfix/senders"),
        (
            "$ours, check_sender_access inline:{{a@b.example = REJECT}}",
            "$ours, check_sender_access inline:{{a@b.example = REJECT}}",
        ),
        ("warn_if_reject reject_unlisted_recipient, reject_rbl_client dnsbl.test", "reject_rbl_client dnsbl.test"),
        (
            "permit, check_recipient_access lmdb:/m/r, check_recipient_access lmdb:/m/doubt, reject_unlisted_recipient",
            "",
        ),
        (
            "check_recipient_access lmdb:/m/doubt check_recipient_access hash:/m/r,check_recipient_access hash:/m/s",
            "check_recipient_access hash:/m/s",
        ),
    ],
)
def test_the_three_restrictions_are_the_last(before: str, stay: str) -> None:
    """What a list has otherwise stays before them as it is spelled; a second time nothing is changed."""
    names = MapName.parse("lmdb:/m/r"), MapName.parse("lmdb:/m/doubt")
    after = doubt_lines.with_doubt(before, *names)
    assert after == ", ".join(filter(None, [stay, *doubt_lines.restrictions(*names)]))
    for same in (after, after.replace(", ", ",\n  "), f"{after},", after.replace("lmdb:/m/r", "proxy:lmdb:/m/r")):
        assert doubt_lines.with_doubt(same, *names) == same


def test_root_writes_nothing_in_the_directory_of_another(postfix: Begin) -> None:
    """Where its owner may not write the state directory, no table is made: root does not do it by path."""
    here = postfix(relay_domains="example.com")
    place = here.directory / "maps"
    place.mkdir()
    os.chown(place, 65534, 65534)
    file, said = begun(here, "--map", f"lmdb:{place}/relay_recipients")
    assert list(place.iterdir()) == []
    assert "made " not in said
    assert file.stat().st_uid == 0


@pytest.mark.parametrize("name", ["doubt", "doubt.lmdb", "doubt-all"])
def test_a_doubt_table_that_is_there_stays(name: str, postfix: Begin) -> None:
    """Whatever has the name of one of its files is not replaced by init."""
    here = postfix(relay_domains="example.com")
    place = here.directory / "maps"
    place.mkdir()
    (place / name).write_text("mine")
    _, said = begun(here, "--map", f"lmdb:{place}/relay_recipients")
    assert [path.name for path in place.iterdir()] == [name]
    assert (place / name).read_text() == "mine"
    assert ("made " in said) is False


def asked(here: PrivatePostfix) -> list[int]:
    """Return what smtpd answers to a known, an unknown and a foreign recipient."""
    return [here.verdict(f"{name}").code for name in ("info@example.com", "nobody@example.com", "info@example.net")]


@pytest.mark.parametrize("has_main_cf", [True, False])
def test_on_a_stock_debian(has_main_cf: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """By root, the files in the agent's directory are the agent's; the steps, as they are, end with a right smtpd.

    Postfix by itself defers foreign domains: defer_unauth_destination.
    """
    need_postfix("lmdb")
    with ThrowawayHost() as host:
        host.put_program()
        host.put_master_cf()
        main_cf = "/etc/postfix/main.cf"
        host.run(
            "useradd --system --home-dir /var/lib/syncagent --shell /usr/sbin/nologin syncagent\n"
            "install -d -o syncagent -g syncagent -m 0755 /var/lib/syncagent\n"
            f"ln -sf /opt/syncagent/bin/syncagent /usr/local/bin; rm -f {main_cf} /var/spool/postfix/pid/*\n"
        )
        if has_main_cf:
            host.run(
                f"cp /usr/share/postfix/main.cf.debian {main_cf}; touch -d '1 minute ago' {main_cf}; postfix start"
            )
        said = host.run("syncagent init --domain example.com --domain example.org </dev/null")
        assert (f"made {DOUBT}" in said) is has_main_cf
        assert ("  postfix start\n" in said) is not has_main_cf
        if has_main_cf:
            owners = host.run("stat -c '%U %a %n' /var/lib/syncagent/doubt*").splitlines()
            assert len(owners) == 4
            assert all(line.startswith("syncagent 644 ") for line in owners), owners
        host.write("/etc/syncagent/recipients", "postmaster@example.org\ninfo@example.com\n")
        for line in said.partition("To be done next")[2].splitlines()[1:]:
            host.type(line.replace("syncagent check", "syncagent check --offline || test $? = 1"))
        host.run("postconf -e mynetworks=; postfix reload")  # by itself it has 127.0.0.1, from where the test asks
        known, unknown, foreign = "info@example.com", "nobody@example.org", "info@example.net"
        assert wait_until(lambda: [host.verdict(name) for name in (known, unknown, foreign)] == [250, 450, 454])


def problems(file: Path) -> set[str]:
    """Name the checks that `check` calls errors."""
    found = json.loads(syncagent("check", "--offline", "--json", config=file).stdout)["findings"]
    return {one["check"] for one in found if one["severity"] == "error"}


def test_what_it_prepared_loads_as_well(postfix: Begin) -> None:
    """With every prepared line put in force, the configuration is right; and each is a line to put in force."""
    file, _ = begun(postfix(relay_domains="example.net"))
    everything = re.sub(r"^#(?=\[|[a-z_]+ = )", "", file.read_text(), flags=re.MULTILINE)
    assert set(tomllib.loads(everything)["sources"]) == {"extra", "corp", "primary"}
    file.write_text(everything)
    read = config.load(file)
    assert read.limits.canaries == ("postmaster@example.net",)
    assert tables.Limits(canaries=read.limits.canaries) == read.limits, "what is prepared is the default"
    assert read.schedule == tables.Schedule()
    assert read.state == tables.State()


@pytest.mark.parametrize("name", ["syncagent.toml", "recipients"])
@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_it_overwrites_nothing(name: str, kind: str, tmp_path: Path) -> None:
    """Whatever is in the way of either file stays as it is, is named, and neither is written."""
    there = tmp_path / name
    if kind == "file":
        there.write_text("mine")
    elif kind == "directory":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    before = there.lstat()  # all of it but when it was last looked at
    done = syncagent("init", "--domain", "example.com", config=tmp_path / "syncagent.toml", check=73)
    assert f"syncagent: {there} exists already, and init overwrites nothing" in done.stderr
    assert done.stdout == ""
    after = there.lstat()
    assert (after.st_ino, after.st_mode, after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert list(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize("failing", [1, 2])
def test_it_writes_both_or_none(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where either file cannot be put in place, or somebody else just did, nothing is left."""
    monkeypatch.setattr("syncagent.postfix.commands.tool", lambda _: None)
    start = init.look(tmp_path / "syncagent.toml", None)
    calls = []

    def link(old: str, new: Path) -> None:
        calls.append(new)
        if len(calls) == failing:
            raise FileExistsError(17, "File exists")
        real(old, new)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(init.InitError, match="cannot be written: File exists"):
        list(init.write(start))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the place of a directory is an error that names what could not be written."""
    (tmp_path / "etc").write_text("")
    file = tmp_path / "etc" / "syncagent" / "syncagent.toml"
    done = syncagent("init", "--domain", "example.com", config=file, check=73)
    assert "cannot be written: Not a directory" in done.stderr


@pytest.mark.parametrize(
    "flags", [["--map", "ldap:/x"], ["--map", "hash:x"], ["--domain", "a b"], ["--domain", "a@b.example"]]
)
def test_flags_that_are_wrong(flags: list[str], tmp_path: Path) -> None:
    """A table or a domain that syncagent cannot have is a usage error, and nothing is written."""
    done = syncagent("init", *flags, config=tmp_path / "syncagent.toml", check=64)
    assert flags[0] in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks(postfix: Begin) -> None:
    """On a terminal it asks for what it would have taken; Enter takes that, and what is wrong is asked for again."""
    here = postfix(relay_domains="example.net, example.org")
    file = here.directory / "syncagent.toml"
    person = Terminal(*PROGRAM, "--config", file, "init", "--config-directory", here.config_directory)
    person.answer(f"TYPE:PATH [{DEFAULT}]: ", "nonsense\n")
    person.answer("TYPE:PATH [", "\n")
    person.answer("backup MX for [example.net example.org]: ", "example..net\n")
    person.answer("backup MX for [", "Example.net, example.com\n")
    assert person.ended() == 0
    assert f"wrote {file}" in person.said
    read = config.load(file).postfix
    assert read.map.spelled == DEFAULT
    assert read.relay_domains == ("example.net", "example.com")


def test_on_a_terminal_no_example_is_taken_for_an_answer(postfix: Begin) -> None:
    """Where no domain is known, Enter takes none: it is asked for again; interrupted, nothing is written."""
    here = postfix()
    file = here.directory / "etc" / "syncagent.toml"
    person = Terminal(*PROGRAM, "--config", file, "init", "--config-directory", here.config_directory)
    person.answer("TYPE:PATH [", f"hash:{here.directory}/r\n")
    person.answer("backup MX for: ", "\n")
    person.answer("backup MX for: ", "\x04")
    assert person.ended() == 130
    assert not file.parent.exists()


@pytest.mark.parametrize("flags", [["--domain", "example.com"], ["--map", "hash:/m/r"]])
def test_on_a_terminal_with_flags_it_asks_nothing(flags: list[str], postfix: Begin) -> None:
    """A flag that answers a question means that nobody is there to answer others."""
    here = postfix(relay_domains="example.com")
    file = here.directory / "syncagent.toml"
    person = Terminal(*PROGRAM, "--config", file, "init", "--config-directory", here.config_directory, *flags)
    assert person.ended() == 0
    assert f"wrote {file}" in person.said
    assert config.load(file).postfix.relay_domains == ("example.com",)


def test_a_list_of_main_cf() -> None:
    """Lists are parted at commas and any white space, but not within braces."""
    assert mainconf.entries("a, b\tc,,\n d") == ["a", "b", "c", "d"]
    assert mainconf.entries("inline:{a=b, {c = d e}} f") == ["inline:{a=b, {c = d e}}", "f"]
    assert mainconf.entries(" ") == []


def test_an_inline_table_of_domains(postfix: Begin) -> None:
    """A table written into main.cf itself is listed too."""
    file, said = begun(postfix(relay_domains="inline:{example.org=x, {example.com = y}}"))
    assert config.load(file).postfix.relay_domains == ("example.com", "example.org")
    assert "note:" not in said
