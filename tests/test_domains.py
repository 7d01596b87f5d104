"""Relay domains as a second map: what sources report and the configuration allows, none removed unasked."""

import json
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest

from syncagent.model import SyncResult
from tests.scenario import Scenario, reasons
from tests.support.need import need_postfix, need_postmap
from tests.support.postfix import PrivatePostfix
from tests.support.postmap import COMPATIBILITY_LEVEL, postmap_keys, write_parameters
from tests.support.programs import wait_until
from tests.support.run import syncagent


class Scene(Scenario):
    """A scenario whose source reports domains in its first line."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "corp")
        self.domains_map = directory / "relay_domains"
        self.postfix = {"domains_map": f"lmdb:{self.domains_map}", "allow_domains": ["*.example", "example.net"]}

    def report(self, domains: Iterable[str], addresses: Iterable[str]) -> None:
        """Replace what the source says."""
        lines = [f"# domains: {', '.join(domains)}", *addresses]
        new = self.directory / "new.list"
        new.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        new.replace(self.file("corp"))

    def domains(self) -> set[str]:
        """Give the keys of the second map."""
        if not self.domains_map.exists():
            return set()
        return {key.decode() for key in postmap_keys(self.postfix_directory, f"lmdb:{self.domains_map}")}


@pytest.fixture(name="scene")
def fixture_scene(tmp_path: Path) -> Scene:
    """A source with two domains, of which one is new."""
    scene = Scene(tmp_path)
    scene.report(["example.com", "new.example"], ["a@example.com", "b@new.example"])
    return scene


def held(result: SyncResult) -> dict[str, str]:
    """Give the IDs of the holds by what they hold."""
    return {hold.domain: hold.id for hold in result.plan.holds}


def test_a_reported_domain_enters_with_its_recipients(scene: Scene) -> None:
    """What is allowed is a relay domain, its recipients are published; the rest stays out of scope."""
    scene.report(
        ["example.com", "new.example", "evil.test", "empty.example", "xn--bcher-kva.example"],
        ["a@example.com", "b@new.example", "c@evil.test", "d@bücher.example"],
    )
    result = scene.sync_unchecked(0)
    assert scene.domains() == {"example.com", "new.example", "xn--bcher-kva.example", "bücher.example"}
    assert {"b@new.example", "d@bücher.example", "d@xn--bcher-kva.example"} <= scene.published()
    assert "c@evil.test" not in scene.published()
    assert result.plan.out_of_scope == {"evil.test": 1}
    assert result.plan.domains_added == ("example.com", "new.example", "xn--bcher-kva.example")
    assert scene.sync_unchecked(0).status == "unchanged"


def test_plan_shows_domains_and_writes_none(scene: Scene) -> None:
    """A plan says what would come."""
    assert "+ domain new.example" in scene.say("plan", code=0).stdout
    assert not scene.domains_map.exists()


def test_a_domain_is_never_removed_unasked(scene: Scene) -> None:
    """One that nobody reports any more is held; approved, it goes before its recipients, which are held themselves."""
    scene.sync_unchecked(0)
    scene.report(["example.com"], ["a@example.com"])
    result = scene.sync_unchecked(65)
    assert reasons(result) == {"relay_domains:new.example": {"domain"}, "new.example": {"emptied", "domain"}}
    assert scene.domains() == {"example.com", "new.example"}
    assert "b@new.example" in scene.published()
    assert "the removal of the relay domain new.example" in scene.say("status", code=65).stderr
    again = scene.sync_unchecked(65)
    assert held(again) == held(result)
    approved = json.loads(scene.say("approve", "--json", held(result)["relay_domains:new.example"], code=65).stdout)
    assert approved["plan"]["domains_removed"] == ["new.example"]
    assert scene.domains() == {"example.com"}
    assert "b@new.example" in scene.published()
    scene.say("approve", held(result)["new.example"], code=0)
    assert scene.published() == {"a@example.com"}
    assert scene.sync_unchecked(0).status == "unchanged"


def test_a_leaving_domain_goes_first(scene: Scene) -> None:
    """Its recipients' hold is not approvable before its own, which is shown first; nothing is approved then."""
    scene.sync_unchecked(0)
    scene.report(["example.com"], ["a@example.com"])
    ids = held(scene.sync_unchecked(65))
    assert list(ids) == ["relay_domains:new.example", "new.example"]
    told = [line for line in scene.say("sync", code=65).stdout.splitlines() if line.startswith("held: ")]
    assert ["relay domain" in line for line in told] == [True, False]
    first, then = ids.values()
    refused = scene.say("approve", then, code=64)
    assert f"{then} cannot be approved before {first}, the removal of the relay domain new.example" in refused.stderr
    assert not any(hold.approved_at for hold in scene.sync_unchecked(65).plan.holds)
    assert "b@new.example" in scene.published()
    assert scene.domains() == {"example.com", "new.example"}


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_both_are_approved_at_once(scene: Scene, order: slice) -> None:
    """Both holds on one command line: the domain leaves its table first, which a failure in between shows."""
    scene.sync_unchecked(0)
    scene.report(["example.com"], ["a@example.com"])
    ids = list(held(scene.sync_unchecked(65)).values())[order]
    index = scene.map.with_name(f"{scene.map.name}.lmdb")
    aside = index.with_name("aside")
    index.rename(aside)
    index.mkdir()  # a rename cannot replace a directory
    (index / "x").touch()
    scene.say("approve", *ids, code=73)
    (index / "x").unlink()
    index.rmdir()
    aside.rename(index)
    assert scene.domains() == {"example.com"}
    assert "b@new.example" in scene.published()
    assert not scene.sync_unchecked(0).plan.holds
    assert scene.published() == {"a@example.com"}


def test_a_domain_that_leaves_while_its_recipients_are_let_go(scene: Scene) -> None:
    """What a person let go stays for as long as its domain does: the domain left the source meanwhile."""
    scene.sync_unchecked(0)
    scene.report(["example.com", "new.example"], ["a@example.com"])
    (then,) = held(scene.sync_unchecked(65)).values()
    scene.report(["example.com"], ["a@example.com"])
    scene.say("approve", then, code=65)
    assert "b@new.example" in scene.published()
    ids = held(scene.sync_unchecked(65))
    assert ids["new.example"] == then
    scene.say("approve", ids["relay_domains:new.example"], code=0)
    assert scene.published() == {"a@example.com"}


def test_the_history_has_domains(scene: Scene) -> None:
    """A domain that entered or left is a change with its sources, and is asked for by its name."""
    scene.report(["example.com"], ["a@example.com"])
    scene.sync_unchecked(0)
    scene.report(["example.com", "bücher.example"], ["a@example.com", "b@bücher.example"])
    scene.sync_unchecked(0)
    told = scene.say("history", code=0).stdout
    assert "+ domain xn--bcher-kva.example added: reported by corp" in told
    assert "and 1 more" not in told
    scene.report(["example.com"], ["a@example.com"])
    ids = held(scene.sync_unchecked(65))
    scene.say("approve", ids["relay_domains:xn--bcher-kva.example"], code=65)
    told = scene.say("history", "--address", "Bücher.example", code=0).stdout
    assert [line.split("domain ")[1] for line in told.splitlines() if " domain " in line] == [
        "xn--bcher-kva.example added: reported by corp",
        "xn--bcher-kva.example removed",
    ]
    changes = [one for run in json.loads(scene.say("history", "--json", code=0).stdout) for one in run["changes"]]
    assert {"address": "xn--bcher-kva.example", "added": True, "sources": ["corp"]} in changes


def test_a_domain_that_comes_back_is_not_held_any_more(scene: Scene) -> None:
    """Reported again, nothing is left to approve."""
    scene.sync_unchecked(0)
    scene.report(["example.com"], ["a@example.com", "b@new.example"])
    assert reasons(scene.sync_unchecked(65)) == {"relay_domains:new.example": {"domain"}}
    scene.report(["example.com", "new.example"], ["a@example.com", "b@new.example"])
    assert not scene.sync_unchecked(0).plan.holds


def test_a_reported_domain_is_explained(scene: Scene) -> None:
    """An address of a domain that only the sources report is in, and explain knows it."""
    scene.sync_unchecked(0)
    maps = {"relay_domains": f"lmdb:{scene.domains_map}", "relay_recipient_maps": f"lmdb:{scene.map}"}
    write_parameters(scene.postfix_directory, {"compatibility_level": COMPATIBILITY_LEVEL, **maps})
    said = scene.say("explain", "b@new.example", code=0).stdout
    assert "outside" not in said
    assert "250" in said.splitlines()[-1]
    assert "550" in scene.say("explain", "nobody@new.example", code=0).stdout.splitlines()[-1]


def test_a_failing_source_keeps_its_domains(scene: Scene) -> None:
    """A source that fails reports what it reported last."""
    scene.sync_unchecked(0)
    scene.break_source("corp")
    result = scene.sync_unchecked(75)
    assert not result.plan.holds
    assert scene.domains() == {"example.com", "new.example"}
    assert "b@new.example" in scene.published()


def test_losing_the_ledger_loses_no_domain(scene: Scene) -> None:
    """What the map has stays until a person lets it go, whoever remembers it."""
    scene.sync_unchecked(0)
    scene.lose_ledger()
    scene.report(["example.com"], ["a@example.com"])
    assert "relay_domains:new.example" in held(scene.sync_unchecked(65))
    assert scene.domains() == {"example.com", "new.example"}


def test_a_map_made_by_hand_is_adopted(scene: Scene) -> None:
    """Domains that another hand wrote stay."""
    scene.domains_map.write_text("example.org OK\nexample.com x\n", "utf-8")
    assert "relay_domains:example.org" in held(scene.sync_unchecked(65))
    assert scene.domains() == {"example.com", "example.org", "new.example"}


def test_a_key_for_subdomains_stays_one(scene: Scene) -> None:
    """``.example.org``, for what is below it alone, is not taken for the domain; it stays until a person lets it go."""
    scene.domains_map.write_text(".deep.example.org OK\n.example.com OK\nexample.com OK\n", "utf-8")
    for _ in range(2):
        ids = held(scene.sync_unchecked(65))
        assert list(ids) == ["relay_domains:.deep.example.org", "relay_domains:.example.com"]
        assert scene.domains() == {".deep.example.org", ".example.com", "example.com", "new.example"}
    scene.say("approve", *ids.values(), code=0)
    assert scene.domains() == {"example.com", "new.example"}
    assert scene.sync_unchecked(0).status == "unchanged"


def test_an_index_of_the_type_before_goes(scene: Scene) -> None:
    """Where the type of the table changes, the old index does not stay beside."""
    need_postmap("hash")
    scene.sync_unchecked(0)
    scene.postfix["domains_map"] = f"hash:{scene.domains_map}"
    scene.sync_unchecked(0)
    assert sorted(path.name for path in scene.directory.glob("relay_domains*")) == ["relay_domains", "relay_domains.db"]


def test_a_hand_edit_is_undone(scene: Scene) -> None:
    """A domain that was taken out of the text by hand is written again."""
    scene.sync_unchecked(0)
    scene.domains_map.write_text("example.com OK\n", "utf-8")
    assert scene.sync_unchecked(0).status == "published"
    assert scene.domains() == {"example.com", "new.example"}


@pytest.mark.parametrize("fails_at", ["relay_recipients", "relay_domains"])
def test_a_failed_publish_leaves_both_and_is_made_up(scene: Scene, fails_at: str) -> None:
    """Where either table cannot be published, nobody is refused by it, and the next run does the rest."""
    scene.sync_unchecked(0)
    place = {"relay_recipients": scene.map, "relay_domains": scene.domains_map}[fails_at]
    scene.report(["example.com", "new.example", "example.net"], ["a@example.com", "b@new.example", "c@example.net"])
    index = place.with_name(f"{place.name}.lmdb")
    aside = place.with_name("aside")
    index.rename(aside)
    index.mkdir()  # a rename cannot replace a directory
    (index / "x").touch()
    result = scene.sync_unchecked(73)
    assert result.status == "failed"
    (index / "x").unlink()
    index.rmdir()
    aside.rename(index)
    if fails_at == "relay_recipients":
        assert scene.domains() == {"example.com", "new.example"}, "a domain is not opened before its recipients are in"
    scene.sync_unchecked(0)
    assert scene.domains() == {"example.com", "new.example", "example.net"}
    assert "c@example.net" in scene.published()


def test_without_the_second_map_nothing_is_reported(scene: Scene) -> None:
    """A source's domains are its own affair unless the configuration asks for them."""
    scene.postfix = {}
    result = scene.sync_unchecked(0)
    assert scene.published() == {"a@example.com"}
    assert result.plan.out_of_scope == {"new.example": 1}


@pytest.mark.parametrize(
    ("postfix", "problem"),
    [
        ({"allow_domains": ["*.example"]}, "needs domains_map"),
        ({"domains_map": "lmdb:/m", "map": "lmdb:/m"}, "is the same table as map"),
        ({"domains_map": "lmdb:/n", "allow_domains": ["bücher.example"]}, "is no pattern"),
    ],
)
def test_bad_configurations(scene: Scene, postfix: dict[str, object], problem: str) -> None:
    """What contradicts itself is said."""
    scene.postfix = postfix
    assert problem in scene.say("plan", code=78).stderr


def test_a_real_postfix_relays_for_a_new_domain(tmp_path: Path) -> None:
    """A domain that is new on the primary is accepted by smtpd after one sync, its unknown recipients refused."""
    need_postfix("lmdb")
    with PrivatePostfix(["example.net"]) as postfix:
        maps = postfix.directory / "maps"
        maps.mkdir(mode=0o755)
        postfix.set(relay_domains=f"lmdb:{maps}/domains", relay_recipient_maps=f"lmdb:{maps}/recipients")
        file = tmp_path / "syncagent.toml"
        file.write_text(
            f'[postfix]\nmap = "lmdb:{maps}/recipients"\ndomains_map = "lmdb:{maps}/domains"\n'
            f'relay_domains = ["example.com"]\nallow_domains = ["*.example"]\n'
            f'config_directory = "{postfix.config_directory}"\n[state]\ndirectory = "state"\n'
            '[limits]\nremoval_grace = "0s"\n[sources.corp]\ntype = "file"\npath = "list"\n',
            "utf-8",
        )
        (tmp_path / "list").write_text("# domains: example.com\na@example.com\n", "utf-8")
        syncagent("sync", config=file, check=0)
        postfix.reload()
        assert postfix.verdict("a@example.com").code == 250
        assert postfix.verdict("before@new.example").code == 554  # which this smtpd remembers: not asked again
        (tmp_path / "list").write_text("# domains: example.com new.example\na@example.com\nb@new.example\n", "utf-8")
        syncagent("sync", config=file, check=0)
        names = (f"never{number}@new.example" for number in count())
        assert wait_until(lambda: postfix.verdict(next(names)).code == 550, pause=0.5), "the domain is not opened"
        assert postfix.verdict("b@new.example").code == 250
        assert postfix.verdict("nobody@new.example").code == 550
