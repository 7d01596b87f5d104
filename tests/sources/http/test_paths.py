"""Paths into JSON and rules about it: what is not there, or means nothing that is known, is an error."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.sources.http.recipe import conditions, json_path
from syncagent.sources.http.recipe.conditions import Rule, RuleError
from syncagent.sources.http.recipe.json_path import ABSENT, MissingError, PathError

# Paths

BODY = {
    "users": [{"mail": "a", "alias": ["b", "c"], "none": None}, {"mail": "d", "alias": []}],
    "by": {"x": {"to": 1}, "y": {"to": 2}},
    "@odata.nextLink": "z",
    "null": None,
    "deep": {"er": [[1, 2], [3]]},
}
EVERY: dict[str, list[Any]] = {
    "@": [BODY],
    "users[].mail": ["a", "d"],
    "users[].alias[]": ["b", "c"],
    "users[0].mail": ["a"],
    "users[1].alias": [[]],
    "users[2]?": [],
    "users[].none?": [],
    "users[].other?.deeper": [],
    "by.*.to": [1, 2],
    "by.*~": ["x", "y"],
    '"@odata.nextLink"': ["z"],
    '"@odata.nextLink"?': ["z"],
    "null": [None],
    "null?": [],
    "null[]?": [],
    "null.*?": [],
    "null?.x": [],
    "deep.er[][]": [1, 2, 3],
    "deep.er[1][0]": [3],
}


@pytest.mark.parametrize("path", EVERY)
def test_where_a_path_leads(path: str) -> None:
    """A path leads to every place that it names, and to none where it may end."""
    assert list(json_path.find_all(BODY, path)) == EVERY[path]
    if len(EVERY[path]) < 2:
        assert json_path.find_one(BODY, path) == (EVERY[path][0] if EVERY[path] else ABSENT)
    else:
        with pytest.raises(PathError, match="expected one"):
            json_path.find_one(BODY, path)


ASTRAY = {
    "user[].mail": "'user' is missing, the object has: users, by",
    "users.mail": "expected an object, got an array",
    "users[].male": "'male' is missing, the object has: mail, alias",
    "users[].none": "'none' is missing",
    "users[2]": "item 2 is missing, the array has 2",
    "by[]": "expected an array, got an object",
    "by[0]?": "expected an array, got an object",
    "null.x": "expected an object, got null",
    "null.x?": "expected an object, got null",
    "users[].mail.x?": "expected an object, got a text",
    "users[].mail[]?": "expected an array, got a text",
    "deep.er.*": "expected an object, got an array",
}


@pytest.mark.parametrize("path", ASTRAY)
def test_where_no_path_leads(path: str) -> None:
    """A path that leads nowhere is an error that says what there is."""
    with pytest.raises(PathError) as told:
        list(json_path.find_all(BODY, path))
    assert ASTRAY[path] in str(told.value)


def test_null_is_no_empty_answer() -> None:
    """That the body is null, or another thing, is never taken for a list that may be absent."""
    bodies: list[Any] = [None, "text", 7, []]
    for body in bodies:
        with pytest.raises(PathError):
            json_path.find_one(body, "users?")
    assert json_path.find_one({}, "users?") is ABSENT


@pytest.mark.parametrize(
    "path", ["", ".", "a.", ".a", "a..b", "a b", "a[", "a[x]", "a[-1]", "a]b", '"a', "a?b", "[]a", "*a"]
)
def test_no_paths(path: str) -> None:
    """What is no path is refused when the recipe is read."""
    with pytest.raises(PathError):
        json_path.parse(path)


def test_names_in_messages() -> None:
    """A message lists names, short ones only: others could be values."""
    with pytest.raises(PathError) as told:
        json_path.find_one({"ok": 1, "x" * 41: 1, "a\nb": 1, "käse": 1}, "no")
    assert str(told.value) == "no: 'no' is missing, the object has: ok"


_NAMES = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1, max_size=5)
_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@st.composite
def _led(draw: st.DrawFn) -> tuple[Any, list[str], Any]:
    """Draw a value, the parts of a path into it, and what is there."""
    tree = place = draw(_TREES)
    parts: list[str] = []
    while isinstance(place, (list, dict)) and (not parts or draw(st.booleans())):
        if isinstance(place, dict):
            name = draw(st.sampled_from(sorted(place)))
            parts.append(f'."{name}"')
            place = place[name]
        else:
            number = draw(st.integers(0, len(place) - 1))
            parts.append(f"[{number}]")
            place = place[number]
    return tree, parts, place


@given(_led())
def test_a_path_that_was_built_finds_what_is_there(led: tuple[Any, list[str], Any]) -> None:
    """Whatever the value, a path to one of its places gives what stands there, whether a part may be absent or not."""
    tree, parts, found = led
    path = "".join(parts).removeprefix(".") or "@"
    assert list(json_path.find_all(tree, path)) == [found]
    if parts:
        assert list(json_path.find_all(tree, f"{path}?")) == ([] if found is None else [found])


@given(_led(), st.data())
def test_a_slip_in_a_path_raises(led: tuple[Any, list[str], Any], data: st.DataObject) -> None:
    """Whatever the value, a path with one part that is not there raises, and never means "nothing"."""
    tree, parts, _ = led
    if not parts:
        return
    at = data.draw(st.integers(0, len(parts) - 1))
    wrong = data.draw(st.sampled_from(['."no such name"', "[1000]"]))
    path = "".join([*parts[:at], wrong, *parts[at + 1 :]]).removeprefix(".")
    with pytest.raises(PathError):
        list(json_path.find_all(tree, path))


# Rules

NOW = time.time()
HOLD: list[tuple[dict[str, Any], Any, bool]] = [
    ({"one_of": [1, 2], "known": [0]}, 1, True),
    ({"one_of": [1, 2], "known": [0]}, "2", True),
    ({"one_of": ["1"], "known": ["0"]}, 1, True),
    ({"one_of": [1], "known": [0]}, 1.0, True),
    ({"one_of": [1], "known": [0]}, " 1 ", True),
    ({"one_of": [1], "known": [0]}, "0", False),
    ({"one_of": [True], "known": [False]}, "true", True),
    ({"one_of": ["on"], "known": ["off"], "default": "on"}, None, True),
    ({"one_of": ["on"], "known": ["off"], "default": "off"}, ABSENT, False),
    ({"none_of": ["Guest"], "known": ["Member"]}, "Member", True),
    ({"none_of": ["Guest"], "known": ["Member"]}, "Guest", False),
    ({"true": True}, True, True),
    ({"true": True}, 1, True),
    ({"true": True}, 1.0, True),
    ({"true": True}, "1", True),
    ({"true": True}, "Yes", True),
    ({"true": True}, "on", True),
    ({"true": True}, 0, False),
    ({"true": True}, "0", False),
    ({"true": True}, "no", False),
    ({"true": False}, "", True),
    ({"true": False}, False, True),
    ({"true": False, "default": 0}, None, True),
    ({"true": False, "default": 0}, ABSENT, True),
    ({"true": False, "default": 0}, 1, False),
    ({"present": True}, "x", True),
    ({"present": True}, 0, True),
    ({"present": True}, None, False),
    ({"present": True}, ABSENT, False),
    ({"present": False}, ABSENT, True),
    ({"starts": "@"}, "@example.com", True),
    ({"starts": "@"}, "a@example.com", False),
    ({"not_starts": "@"}, "a@example.com", True),
    ({"not_starts": "@", "default": "a"}, ABSENT, True),
    ({"not_empty": True}, "x", True),
    ({"not_empty": True}, ["", "x"], True),
    ({"not_empty": True}, [""], False),
    ({"not_empty": True}, [], False),
    ({"not_empty": True}, "", False),
    ({"not_empty": True}, None, False),
    ({"not_past": True}, None, True),
    ({"not_past": True}, ABSENT, True),
    ({"not_past": True}, NOW + 86400, True),
    ({"not_past": True}, NOW - 86400, False),
    ({"not_past": True}, str(int(NOW + 86400)), True),
    ({"not_past": True}, "2999-12-31T00:00:00Z", True),
    ({"not_past": True}, "2999-12-31T00:00:00+02:00", True),
    ({"not_past": True}, "9999-12-31", True),
    ({"not_past": True}, "9999-12-31 23:59:59", True),
    ({"not_past": True}, "2001-01-01T00:00:00Z", False),
    ({"not_past": True}, "2001-01-01", False),
    ({"not_past": True}, time.strftime("%Y-%m-%d", time.gmtime()), True),
    ({"not_past": True}, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(NOW - 3600)), True),
    ({"not_past": True}, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 3600)), False),
]
UNKNOWN: list[tuple[dict[str, Any], list[Any]]] = [
    ({"one_of": [1], "known": [0]}, [2, "x", None, True, 1.5, [], {}, "01", ABSENT, 10**400]),
    ({"none_of": [1], "known": [0]}, [2, None, "one"]),
    ({"true": True}, [2, None, "perhaps", [], ABSENT, -1, 0.5]),
    ({"true": False, "default": 0}, ["x", {}]),
    ({"starts": "@"}, [None, 1, [], ABSENT]),
    ({"not_empty": True}, [0, 7, True, {}, {"a": 1}, ABSENT]),
    ({"not_past": True}, [0, -1, True, False, "", "never", "0000-00-00", "20300101", 10**400, []]),
    ({"not_past": True}, ["1970-01-01", "0001-01-01T00:00:00Z", "1970-01-01 00:00:00"]),
]


def rule(keys: dict[str, Any], path: str = "x") -> Rule:
    """Make a rule as a recipe has it."""
    return msgspec.convert({"path": path, **keys}, Rule)


def record(value: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a record with a value, or without."""
    return {} if value is ABSENT else {"x": value}


@pytest.mark.parametrize(("keys", "value", "holds"), HOLD, ids=[f"{number}" for number in range(len(HOLD))])
def test_rules(keys: dict[str, Any], value: Any, holds: bool) -> None:  # noqa: ANN401, FBT001 - parameters
    """A rule holds, or does not, as people mean the value."""
    assert not conditions.problem(rule(keys))
    assert conditions.all_hold([rule(keys)], record(value)) is holds


@pytest.mark.parametrize(
    ("keys", "value"),
    [pytest.param(keys, value, id=f"{keys} {value!r}"[:60]) for keys, values in UNKNOWN for value in values],
)
def test_what_a_rule_does_not_know(keys: dict[str, Any], value: Any) -> None:  # noqa: ANN401 - a parameter
    """A value that the rule does not know is an error, never a reason to leave a recipient out."""
    with pytest.raises((RuleError, PathError)):
        conditions.all_hold([rule(keys)], record(value))


@pytest.mark.parametrize(
    "keys", [{"present": True}, {"present": False}, {"not_past": True}, {"true": True, "default": 0}]
)
@pytest.mark.parametrize("whole", [{"box": "text"}, {"box": 7}, {"box": []}, "text", []])
def test_what_may_be_absent_is_no_other_thing(keys: dict[str, Any], whole: object) -> None:
    """That something may be absent does not excuse another kind of thing in its place."""
    with pytest.raises(PathError):
        conditions.all_hold([rule(keys, "box.x")], whole)
    assert isinstance(conditions.all_hold([rule(keys, "box.x")], {"box": None}), bool)
    assert isinstance(conditions.all_hold([rule(keys, "box.x")], {}), bool)
    with pytest.raises(MissingError):
        conditions.all_hold([rule({"true": True}, "box.x")], {})


@given(st.integers(-(10**6), 10**6))
def test_numbers_are_compared_as_people_mean_them(number: int) -> None:
    """An integer is the same as a number, as a text, and with a point; a boolean is no number."""
    assert {conditions.canonical(spelled) for spelled in (number, str(number), float(number), f" {number}")} == {
        str(number)
    }
    assert conditions.canonical(bool(number)) in {"true", "false"}


@given(_TREES)
def test_what_is_shown_is_short(value: Any) -> None:  # noqa: ANN401 - JSON
    """Whatever a value is, little is shown of it, and nothing of what is in it."""
    assert len(conditions.shown(value)) < 30
    if isinstance(value, (list, dict)):
        assert conditions.shown(value) in {"an array", "an object"}


def test_nothing_long_is_shown() -> None:
    """A long text, an endless number and what cannot be printed are named by their kind."""
    shown = {conditions.shown(value) for value in ("x" * 21, "a\nb", 10**4000, -(10**4000), 1e300)}
    assert shown == {"a text", "a number"}
    assert json.loads(conditions.shown(7)) == 7


RULES: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "exactly one of"),
    "two": ({"true": True, "present": True}, "exactly one of"),
    "nothing else known": ({"one_of": [1]}, "one_of needs known"),
    "nothing else known, none_of": ({"none_of": [1]}, "none_of needs known"),
    "not empty, or what": ({"not_empty": False}, "not_empty can only be true"),
    "not past, or what": ({"not_past": False}, "not_past can only be true"),
    "no path": ({"true": True, "path": "a..b"}, "is not a path"),
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_rule(name: str) -> None:
    """A rule that means nothing, or several things, is told when the recipe is read."""
    keys, told = RULES[name]
    assert told in conditions.problem(rule(keys))
