"""Blanks and invisible characters around and in values: LDAP, HTTP and every format of files take them alike."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncagent.model import Snapshot
from syncagent.sources import Request, file
from syncagent.sources.http.recipe.model import Recipe
from syncagent.sources.http.recipe.pagination import Place
from syncagent.sources.http.recipe.run import Limits, run_recipe
from syncagent.sources.ldap.entries import AddressReader, DirectoryEntry
from syncagent.state.snapshot import SnapshotWriter, first_rejects

Way = Callable[[Path, SnapshotWriter, str], object]
"""A source that says ``anna@example.com`` with this text around it and in it, which stands for ``{}``."""


def ldap(_: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A value of ``mail``."""
    _entry(sink, "mail", spelled)


def ldap_with_prefix(_: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A value of ``proxyAddresses``, which has a prefix."""
    _entry(sink, "proxyAddresses", f"\u200bSMTP:{spelled}")


def _entry(sink: SnapshotWriter, attribute: str, value: str) -> None:
    reader = AddressReader(sink, (attribute,), "entryUUID")
    sink.put(reader.addresses(DirectoryEntry("cn=a", {attribute: [value.encode()]}), "k"))


def http(_: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A value of an API."""
    _recipe(sink, {"kind": "address", "value": "a"}, {"a": spelled})


def http_with_prefix(_: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A value of an API with a prefix."""
    _recipe(sink, {"kind": "address", "value": "a", "only_prefix": "smtp:"}, {"a": f"\ufeff smtp:\u00a0{spelled}"})


def http_in_parts(_: Path, sink: SnapshotWriter, spelled: str) -> None:
    """An address of which an API has the parts in values of their own."""
    local, behind = spelled.split("@example.com")
    record = {"n": f"{local}\r\n", "d": f"\u00a0example.com{behind}"}
    _recipe(sink, {"kind": "address", "template": "{n}@{d}"}, record)


class _Api:
    def __init__(self, record: object) -> None:
        self._record = record

    def start(self, _step: object, _each: str) -> Place:
        return Place("https://example.com/", {})

    def page(self, _step: object, _place: object, _each: str) -> tuple[object, str]:
        return [self._record], ""


def _recipe(sink: SnapshotWriter, emit: dict[str, str], record: object) -> None:
    step = {"name": "a", "path": "/a", "list": "@", "emit": [emit]}
    recipe = msgspec.convert({"title": "t", "auth": {"kind": "none"}, "steps": [step]}, Recipe)
    api: Any = _Api(record)
    run_recipe(recipe, api, Limits(9, 9), Request(None, sink, lambda *_: None))


def _file(directory: Path, sink: SnapshotWriter, text: str, **keys: object) -> None:
    path = directory / "list"
    path.write_text(text, encoding="utf-8", newline="")
    options: dict[str, Any] = {"path": path, **keys}
    source = file.build(file.Config(**options))
    source.fetch(Request(None, sink, lambda *_: None))


def lines(directory: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A line of a list."""
    _file(directory, sink, f"{spelled}\n")


def table(directory: Path, sink: SnapshotWriter, spelled: str) -> None:
    """A cell of a table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["mail", "x"], [spelled, "y"]])
    _file(directory, sink, text.getvalue(), format="csv", column="mail")


WAYS: tuple[Way, ...] = (ldap, ldap_with_prefix, http, http_with_prefix, http_in_parts, lines, table)
AROUND = ("\r\n", "\n", " ", "\t", "\u00a0", "\ufeff", "\u200b", "\u200e", "\u202f", "\u00ad", "\u2066", " \u2060\r\n")
INSIDE = ("\u200b", "\u00ad", "\u00a0", "\u202e", "\ufeff", "\u3000")


def taken(directory: Path, way: Way, spelled: str) -> tuple[Snapshot, list[str], list[str]]:
    """Return what is kept of the source: the snapshot, its addresses, and the reasons of its rejects."""
    sink = SnapshotWriter(directory, ignore_catch_alls=False, source="corp")
    sink.put([("other@example.com", "0", "")])
    way(directory, sink, spelled)
    kept = sink.finish(directory / "kept", allow_empty=False)
    fields = [line.partition(b"\t")[0].decode() for line in (directory / "kept").read_bytes().splitlines()]
    addresses = [name for name in fields if name and not name.startswith("# end") and name != "other@example.com"]
    return kept, addresses, [one.reason for one in first_rejects(directory / "kept", "corp", 9)]


@pytest.mark.parametrize("around", AROUND, ids=ascii)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_around_a_value(tmp_path: Path, way: Way, around: str) -> None:
    """It is no part of the address, wherever it comes from."""
    if way is lines and set(around) & set("\n\r"):
        return  # the line ends there
    assert taken(tmp_path, way, f"{around}anna@example.com{around}")[1:] == (["anna@example.com"], [])


@pytest.mark.parametrize("char", INSIDE, ids=ascii)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_a_value(tmp_path: Path, way: Way, char: str) -> None:
    """It makes a rejected entry whose reason names the character."""
    kept, addresses, reasons = taken(tmp_path, way, f"an{char}na@example.com")
    assert (kept.entries, kept.rejected, addresses) == (1, 1, [])
    assert f"U+{ord(char):04X}" in reasons[0]
    assert "remove it" in reasons[0]


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("lines", "\u00a0anna\u200b\n\u00a0\n"),
        ("aliases", "anna\u200b: root\n"),
        ("passwd", "anna\u200b:x:1000:1::/:/bin/sh\n"),
        ("postmap", "anna\u200b OK\n"),
        ("csv", "mail\n\u00a0anna\u200b\n\u00a0\n"),
    ],
)
def test_a_bare_name(tmp_path: Path, format_: str, text: str) -> None:
    """What is around a name to which the domain is appended is no part of it either; a line of blanks is empty."""
    keys: dict[str, object] = {"format": format_, "domains": ["example.com"]}
    keys |= {"column": "mail"} if format_ == "csv" else {}
    _, addresses, reasons = taken(tmp_path, lambda at, sink, spelled: _file(at, sink, spelled, **keys), text)
    assert (addresses, reasons) == (["anna@example.com"], [])
