"""A live smtpd on a corpus of spellings that one sync published for each map type: whom it takes, whom it does not."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncagent.state.fields import unescape
from tests.support.need import need_postfix
from tests.support.postfix import PrivatePostfix, available_map_types
from tests.support.postmap import settle
from tests.support.run import syncagent
from tests.support.smtp import Client
from tests.support.spelled import RELAY_DOMAINS, SECOND_FORMS, Listed, corpus

MAP_TYPES = ("lmdb", "hash", "cdb", "texthash")
TAKEN, UNKNOWN = 250, 550
CORPUS = corpus()
SHOWN = 40


def as_list(directory: Path, listed: list[Listed]) -> Path:
    """Write what fits in a line as a plain list; give its file."""
    file = directory / "list"
    file.write_text("".join(f"{one.spelled}\n" for one in listed), encoding="utf-8", newline="")
    return file


def as_csv(directory: Path, listed: list[Listed]) -> Path:
    """Write the column of a table, in which a value may have anything; give its file."""
    file = directory / "table.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        rows.writerows([["mail"], *([one.spelled] for one in listed)])
    return file


def write_config(postfix: PrivatePostfix, map_type: str, plain: Path, table: Path) -> Path:
    """Write a configuration whose sources are both files; give its file."""
    maps = postfix.directory / "maps"
    maps.mkdir(exist_ok=True)
    config = postfix.directory / f"{map_type}.toml"
    config.write_text(
        f"""\
[postfix]
map = "{map_type}:{maps / map_type}"
relay_domains = {json.dumps(RELAY_DOMAINS, ensure_ascii=False)}
config_directory = "{postfix.config_directory}"
reload = false

[state]
directory = "{postfix.directory / "state" / map_type}"

[sources.list]
type = "file"
path = "{plain}"

[sources.table]
type = "file"
format = "csv"
column = "mail"
path = "{table}"
""",
        encoding="utf-8",
    )
    return config


@dataclass(frozen=True)
class Published:
    """A Postfix with an smtpd of each map type (``ports``), and what the sync that made its map printed."""

    postfix: PrivatePostfix
    ports: dict[str, int]
    results: dict[str, Any]


@pytest.fixture(scope="module")
def published() -> Iterator[Published]:
    """One Postfix for all map types, each published by a sync of its own; reloaded once."""
    need_postfix("lmdb")
    with PrivatePostfix((*RELAY_DOMAINS, *SECOND_FORMS)) as postfix:
        sources, ports, results = files(postfix.directory), {}, {}
        for map_type in sorted(available_map_types(postfix.config_directory).intersection(MAP_TYPES)):
            config = write_config(postfix, map_type, *sources)
            done = syncagent("sync", "--accept-incomplete", "--json", config=config, check=65)
            results[map_type] = json.loads(done.stdout)
            table = postfix.directory / "maps" / map_type
            settle(table)
            ports[map_type] = postfix.serve(relay_recipient_maps=f"{map_type}:{table}")
        postfix.reload()
        yield Published(postfix, ports, results)


def files(directory: Path) -> tuple[Path, Path]:
    """Write the corpus to two files: every other value that fits in a line in one, the rest in the other."""
    in_line = [not set("\r\n") & set(one.spelled) and bool(at % 2) for at, one in enumerate(CORPUS)]
    plain = [one for one, fits in zip(CORPUS, in_line, strict=True) if fits]
    table = [one for one, fits in zip(CORPUS, in_line, strict=True) if not fits]
    return as_list(directory, plain), as_csv(directory, table)


def test_the_corpus_is_large_and_each_spelling_is_there_once() -> None:
    """It has at least 2,000 spellings, of which many are rejected."""
    assert len(CORPUS) >= 2000
    assert sum(one.rejected for one in CORPUS) >= 150
    assert [spelled for spelled, count in Counter(one.spelled for one in CORPUS).items() if count > 1] == []


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_smtpd_on_every_spelling(published: Published, map_type: str) -> None:
    """No recipient is refused in a spelling of a sender, and nobody else is accepted."""
    need_postfix(map_type)
    expected = {address: TAKEN for one in CORPUS for address in one.same}
    expected |= {address: UNKNOWN for one in CORPUS for address in one.other if address not in expected}
    kinds = {address: (one.kind, one.spelled) for one in CORPUS for address in (*one.same, *one.other)}
    with Client(published.ports[map_type]) as client:
        answers = dict(zip(expected, client.codes(list(expected)), strict=True))
    wrong = [(*kinds[address], address, code) for address, code in answers.items() if code != expected[address]]
    assert wrong[:SHOWN] == []


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_what_is_rejected_is_named(published: Published, map_type: str) -> None:
    """Each entry that nobody gets mail by is rejected with a reason, and no other."""
    need_postfix(map_type)
    result = published.results[map_type]
    assert result["rejected"] == sum(one.rejected for one in CORPUS)
    named = {unescape(one["spelled"]): one["reason"] for one in result["reject_sample"]}
    assert named.keys() <= {one.spelled for one in CORPUS if one.rejected}
    assert all(named.values())


@pytest.mark.parametrize("map_type", ["lmdb", "texthash"])
@pytest.mark.parametrize("sent", ["\ua7cf{n}", "\ua7ce{n}", "STRA\u1e9eE{n}"])
def test_explain_asks_postfix_how_it_folds(published: Published, map_type: str, sent: str) -> None:
    """`explain` says that the map has a key where smtpd finds it, whatever this Postfix folds."""
    need_postfix(map_type)
    kind = "sharp s" if "STRA" in sent else "a letter of a later Unicode"
    n = next(at for at, one in enumerate(CORPUS, 1) if one.kind == f"{kind}, plain")
    address = f"{sent.format(n=n)}@example.com"
    with Client(published.ports[map_type]) as client:
        taken = client.codes([address]) == [TAKEN]
    config = published.postfix.directory / f"{map_type}.toml"
    said = json.loads(syncagent("explain", address, "--json", config=config).stdout)
    assert any(row["found"] for row in said["asked"]) == taken
