"""The keys of a texthash are those that this host's Postfix looks up."""

from pathlib import Path

import pytest

from syncagent.config.tables import Postfix
from syncagent.postfix import commands, folding
from syncagent.values.types import Domain, MapName
from tests.support.need import need_postmap
from tests.support.postmap import minimal_config, postmap_query, settle

SPELLED = ("\u00dcser@example.com", "stra\u00dfe@example.com", "\ua7ce@example.com", "plain@example.com")


@pytest.fixture
def settings(tmp_path: Path) -> Postfix:
    """Settings of a texthash."""
    need_postmap("lmdb")
    name = MapName.parse(f"texthash:{tmp_path / 'map'}")
    return Postfix(map=name, relay_domains=(Domain("example.com"),), config_directory=minimal_config(tmp_path / "pf"))


def write(tmp_path: Path, *keys: str) -> Path:
    """Write keys, sorted."""
    file = tmp_path / "keys"
    file.write_text("".join(f"{key}\n" for key in sorted(keys)), "utf-8")
    return file


def test_each_key_is_found_by_its_spelling(tmp_path: Path, settings: Postfix) -> None:
    """Postfix answers for each spelling, also where it does not fold the keys of a texthash as it reads them."""
    keys = folding.folded(write(tmp_path, *SPELLED), tmp_path, settings.settings())
    table = tmp_path / "map"
    table.write_text("".join(f"{key} OK\n" for key in keys.read_text("utf-8").splitlines()), "utf-8")
    settle(table)
    name = f"texthash:{table}"
    found = {key: postmap_query(settings.config_directory, name, key.encode()) for key in SPELLED}
    assert found == dict.fromkeys(SPELLED, b"OK")
    written = keys.read_text("utf-8").splitlines()
    assert written == sorted(written)
    assert {"\u00fcser@example.com", "strasse@example.com", "plain@example.com"} < set(written)


def test_ascii_keys_need_no_postfix(tmp_path: Path, settings: Postfix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for keys that are ASCII; other keys stay as they are where Postfix is not installed."""
    monkeypatch.setattr(commands, "tool", lambda _: None)
    plain = write(tmp_path, "plain@example.com")
    assert folding.folded(plain, tmp_path, settings.settings()) == plain
    foreign = write(tmp_path, *SPELLED)
    assert folding.folded(foreign, tmp_path, settings.settings()) == foreign
