"""Recipes followed without a network: laws of paging and of domains that stand for others, and what records say."""

import tomllib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.errors import SourceError
from syncagent.model import Entry
from syncagent.sources import Answer, Request
from syncagent.sources.http.recipe.model import Recipe, Step
from syncagent.sources.http.recipe.pagination import Place
from syncagent.sources.http.recipe.run import Limits, Page, run_recipe
from syncagent.sources.http.recipe.validate import problems

HEAD = 'title = "t"\nauth = { kind = "none" }\n'
URL = "https://mail.example.com"


class Sink:
    """Keeps what is put."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.restarts = 0

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep."""
        self.entries += entries

    def restart(self) -> None:
        """Forget."""
        self.entries.clear()
        self.restarts += 1

    def reject(self, *_: str) -> None:
        """Do not expect this."""
        raise AssertionError

    ignore = forget = retain = amend = reject


class Api:
    """Answers by a function of step, place and what for_each gives."""

    def __init__(self, answers: Callable[[str, Place, str], Any]) -> None:
        self._answers = answers

    def start(self, step: Step, each: str) -> Place:
        """See recipe.run.Primary."""
        return Place(f"{URL}{step.path.replace('{each}', each)}", step.query)

    def page(self, step: Step, place: Place, each: str) -> Page:
        """See recipe.run.Primary."""
        given = self._answers(step.name, place, each)
        return given if isinstance(given, tuple) else (given, "")


def recipe(text: str) -> Recipe:
    """Read a recipe."""
    found = msgspec.convert(tomllib.loads(HEAD + text), Recipe)
    assert not list(problems(found))
    return found


def followed(text: str, answers: Callable[[str, Place, str], Any], sink: Sink | None = None) -> tuple[Answer, Sink]:
    """Follow a recipe."""
    sink = sink or Sink()
    request = Request(None, sink, lambda *_: None)  # type: ignore[arg-type] # as good as a Sink
    return run_recipe(recipe(text), Api(answers), Limits(1000, 100_000), request), sink


def bodies(**by_step: Any) -> Callable[[str, Place, str], Any]:  # noqa: ANN401 - JSON
    """Answer each step with one body."""
    return lambda name, *_: by_step[name]


def said(emit: str, record: Any, more: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Return what a record says by an emit."""
    text = f'[[steps]]\nname = "a"\npath = "/a"\nlist = "@"\nemit = [{emit}]\n{more}'
    return [address for address, _, _ in followed(text, bodies(a=[record]))[1].entries]


# Paging

STEP = '[[steps]]\nname = "a"\npath = "/a"\nlist = "items"\nkey = "id"\nemit = [{ kind = "address", value = "mail" }]\n'


def _page(paging: str, place: Place, count: int, size: int) -> Any:  # noqa: ANN401 - JSON
    """Return a page of a list of so many records, as a primary with that kind of paging would."""
    kind, _, base = paging.partition(" ")
    at = place.query.get("at") or place.url.partition("?at=")[2]
    start = {
        "page": lambda: (place.number - int(base or 0)) * size,
        "offset": lambda: place.number - int(base or 0),
    }.get(kind, lambda: int(at or 0))()
    items = [{"id": number, "mail": f"u{number}@example.com"} for number in range(count)[start : start + size]]
    following = start + size if start + size < count else None
    body = {
        "items": items,
        "total": count,
        "token": following,
        "url": None if following is None else f"?at={following}",
    }
    return body, f"/a?at={following}" if kind == "link_header" and following is not None else ""


PAGINGS = {
    "page 0": 'kind = "page", param = "page", start = 0',
    "page 1": 'kind = "page", param = "page"',
    "offset 0": 'kind = "offset", param = "offset", start = 0',
    "offset 1": 'kind = "offset", param = "offset", start = 1',
    "token": 'kind = "token", path = "token", param = "at"',
    "next_url": 'kind = "next_url", path = "url"',
    "link_header": 'kind = "link_header"',
}


@pytest.mark.parametrize("total", ["", 'total = "total"\n'])
@pytest.mark.parametrize("paging", PAGINGS)
@given(count=st.integers(0, 40), size=st.integers(1, 12))
def test_every_record_comes_once(paging: str, total: str, count: int, size: int) -> None:
    """Whatever the paging and the sizes, every record comes exactly once."""
    text = f"{STEP}{total}paging = {{ {PAGINGS[paging]} }}\n"
    answer, sink = followed(text, lambda _, place, __: _page(paging, place, count, size))
    wanted = [(f"u{number}@example.com", f"{number}", "a") for number in range(count)]
    assert sink.entries == wanted
    (step,) = answer.steps
    assert (step.records, step.kept, step.emitted) == (count, count, count)
    assert step.pages <= -(-count // size) + 1


@pytest.mark.parametrize("paging", PAGINGS)
@given(count=st.integers(2, 30), size=st.integers(1, 6), lost=st.integers(0, 29))
def test_a_record_that_is_lost_is_missed(paging: str, count: int, size: int, lost: int) -> None:
    """Whatever the paging, a list without one of its records does not agree with its total."""

    def page(_: str, place: Place, __: str) -> Any:  # noqa: ANN401 - JSON
        body, link = _page(paging, place, count, size)
        body["items"] = [item for item in body["items"] if item["id"] != lost % count]
        return body, link

    text = f'{STEP}total = "total"\npaging = {{ {PAGINGS[paging]} }}\n'
    with pytest.raises(SourceError):
        followed(text, page)


def test_numbers_in_a_body() -> None:
    """A number of a page or a record may stand in the body of a POST."""
    paging = 'method = "POST"\nbody = { from = "{offset}" }\npaging = { kind = "offset", start = 0 }\n'
    asked: list[tuple[int, int]] = []

    def page(_: str, place: Place, __: str) -> Any:  # noqa: ANN401 - JSON
        asked.append((place.number, len(place.query)))
        return _page("offset 0", place, 5, 2)

    assert len(followed(STEP + paging, page)[1].entries) == 5
    assert asked == [(0, 0), (2, 0), (4, 0), (5, 0)]


def test_a_list_that_moves_is_read_again() -> None:
    """What is read the second time counts alone."""
    totals = iter([9, 3, 3])
    answer, sink = followed(
        f'{STEP}total = "total"\n',
        lambda *_: {"total": next(totals), "items": [{"id": at, "mail": f"{at}@example.com"} for at in range(3)]},
    )
    assert (sink.restarts, len(sink.entries), answer.steps[0].records) == (1, 3, 3)


# Domains that stand for others

ALIASES = """
[[steps]]
name = "one"
path = "/one"
list = "@"
emit = [
    { kind = "catch_all", value = "a", where = [{ path = "a", starts = "@" }] },
    { kind = "address", value = "a", where = [{ path = "a", not_starts = "@" }] },
]
[[steps]]
name = "two"
path = "/two"
list = "@"
emit = [{ kind = "address", value = "a" }]
[[steps]]
name = "for_all"
path = "/for_all"
list = "@"
emit = [{ kind = "alias_domain", value = "from", to = "to" }]
[[steps]]
name = "for_one"
path = "/for_one"
list = "@"
emit = [{ kind = "alias_domain", value = "from", to = "to", over = ["one"] }]
"""
_DOMAINS = st.sampled_from(["a.test", "b.test", "c.test", "d.test"])
_PAIRS = st.lists(st.tuples(_DOMAINS, _DOMAINS), max_size=6)
_ADDRESSES = st.lists(st.tuples(st.sampled_from(["", "x", "y", '"q"']), _DOMAINS), max_size=5)


@given(_ADDRESSES, _ADDRESSES, _PAIRS, _PAIRS)
def test_domains_that_stand_for_others(
    ones: list[tuple[str, str]],
    twos: list[tuple[str, str]],
    for_all: list[tuple[str, str]],
    for_one: list[tuple[str, str]],
) -> None:
    """Addresses are there under each domain that stands for theirs, through chains and circles, as `over` permits."""
    twos = [(local, domain) for local, domain in twos if local]
    wanted = {("one", *each) for each in ones} | {("two", *each) for each in twos}
    while True:
        more = {
            (step, local, alias)
            for step, local, domain in wanted
            for alias, to in (*for_all, *(for_one if step == "one" else ()))
            if to == domain
        }
        if more <= wanted:
            break
        wanted |= more
    _, sink = followed(
        ALIASES,
        bodies(
            one=[{"a": f"{local}@{domain}"} for local, domain in ones],
            two=[{"a": f"{local}@{domain}"} for local, domain in twos],
            for_all=[{"from": alias, "to": to} for alias, to in for_all],
            for_one=[{"from": f"@{alias.upper()}.", "to": f" @{to.title()}"} for alias, to in for_one],
        ),
    )
    assert {address.lower().rstrip(".") for address, _, _ in sink.entries} == {f"{one}@{two}" for _, one, two in wanted}


def test_catch_alls_under_other_domains() -> None:
    """A domain that stands for one whose every address is valid is one itself."""
    _, sink = followed(
        ALIASES,
        bodies(one=[{"a": "@a.test"}], two=[], for_all=[{"from": "b.test", "to": "a.test"}], for_one=[]),
    )
    assert [address for address, _, _ in sink.entries] == ["@a.test", "@b.test"]


@pytest.mark.parametrize("to", ["", "@", "a..test", "x@a.test", "a b", "1.2", None, 7])
def test_a_domain_that_stands_for_nothing(to: object) -> None:
    """A domain that stands for what is no domain would have no address, unnoticed: it is an error."""
    with pytest.raises(SourceError, match="step 'for_all', record 1: to is"):
        followed(ALIASES, bodies(one=[], two=[], for_all=[{"from": "b.test", "to": to}], for_one=[]))


def test_many_addresses_under_other_domains() -> None:
    """More addresses than are kept in memory at once are all there under the other domain."""
    many = [{"a": f"u{number}@a.test"} for number in range(25_000)]
    _, sink = followed(ALIASES, bodies(one=many, two=[], for_all=[{"from": "b.test", "to": "a.test"}], for_one=[]))
    assert len({address for address, _, _ in sink.entries}) == 50_000


# What a record says

ADDRESS = '{ kind = "address", value = "a", KEYS }'
SAID: dict[str, tuple[str, Any, list[str]]] = {
    "plain": (ADDRESS.replace(", KEYS", ""), {"a": "x@a.test"}, ["x@a.test"]),
    "several": ('{ kind = "address", value = "a[]" }', {"a": ["x@a.test", "y@a.test"]}, ["x@a.test", "y@a.test"]),
    "the record itself": ('{ kind = "address", value = "@" }', "x@a.test", ["x@a.test"]),
    "names": ('{ kind = "address", value = "a.*~" }', {"a": {"x@a.test": 1}}, ["x@a.test"]),
    "suffixes": (
        ADDRESS.replace("KEYS", 'suffixes = ["-owner", "-bounces"]'),
        {"a": "x@a.test"},
        ["x@a.test", "x-owner@a.test", "x-bounces@a.test"],
    ),
    "prefix": (
        '{ kind = "address", value = "a[]", only_prefix = "smtp:" }',
        {"a": ["SMTP:x@a.test", "smtp: y@a.test", " Smtp:z@a.test", "sip:no@a.test", "X500:/o=a", "plain@a.test"]},
        ["x@a.test", "y@a.test", "z@a.test", "plain@a.test"],
    ),
    "prefix of a catch-all": (
        '{ kind = "catch_all", value = "a", only_prefix = "*@" }',
        {"a": "*@a.test"},
        ["@a.test"],
    ),
    "each": (
        '{ kind = "address", template = "{each.n}@{d}", each = "a[]" }',
        {"d": "a.test", "a": [{"n": "x"}, {"n": "y"}]},
        ["x@a.test", "y@a.test"],
    ),
    "each where": (
        '{ kind = "address", value = "each.m", each = "a[]", where = [{ path = "each.on", true = true }] }',
        {"a": [{"m": "x@a.test", "on": True}, {"m": "y@a.test", "on": 0}]},
        ["x@a.test"],
    ),
    "accept all": ('{ kind = "accept_all", value = "a" }', {"a": "a.test"}, ["@a.test"]),
    "catch-all": ('{ kind = "catch_all", value = "a" }', {"a": "@a.test"}, ["@a.test"]),
    "optional": (
        '{ kind = "address", value = "b?" }, { kind = "address", value = "a" }',
        {"a": "x@a.test"},
        ["x@a.test"],
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_record_says(name: str) -> None:
    """A record says what its emits are for."""
    emit, record, wanted = SAID[name]
    assert said(emit, record) == wanted


SILENT: dict[str, tuple[str, Any, str]] = {
    "nothing": ('{ kind = "address", value = "a[]" }', {"a": []}, "record 1: no emit applies to the record"),
    "no prefix": (
        '{ kind = "address", value = "a", only_prefix = "smtp:" }',
        {"a": "sip:x@a.test"},
        "no emit applies to the record",
    ),
    "optional": ('{ kind = "address", value = "a?" }', {}, "no emit applies to the record"),
    "number": ('{ kind = "address", value = "a" }', {"a": 7}, "a is a number, expected a text"),
    "null": ('{ kind = "address", value = "a" }', {"a": None}, "a is null, expected a text"),
    "null in a list": ('{ kind = "address", value = "a[]" }', {"a": [None]}, "is null, expected a text"),
    "each of a text": ('{ kind = "address", value = "each", each = "@" }', "x", "a record is a text"),
    "half a template": ('{ kind = "address", template = "{n}@{d}" }', {"n": "", "d": "a.test"}, "n is empty"),
    "other half": ('{ kind = "address", template = "{n}@{d}" }', {"n": "x", "d": " "}, "d is empty"),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_record_that_says_nothing(name: str) -> None:
    """A record that counts and says nothing, or half of something, is an error, with its number."""
    emit, record, told = SILENT[name]
    with pytest.raises(SourceError) as error:
        said(emit, record)
    assert "step 'a', record 1: " in str(error.value)
    assert told in str(error.value)


def test_silence_that_is_meant() -> None:
    """Records may say nothing where the recipe says so."""
    assert said('{ kind = "address", value = "a?" }', {}, "must_emit = false") == []


def test_a_pattern_of_letters_is_an_address() -> None:
    """What a pattern matches for sure is not refused: one without a sign for anything, and _ itself."""
    assert said('{ kind = "pattern", value = "p" }', {"p": "anna@example.com"}) == ["anna@example.com"]
    assert said('{ kind = "pattern", value = "p" }', {"p": "a_b@example.com"}) == ["a_b@example.com"]
    assert said('{ kind = "pattern", value = "p" }', {"p": "a_b%@example.com"}) == []


def test_patterns_are_counted() -> None:
    """Patterns are not addresses: how many there are is told, with some of them."""
    text = '[[steps]]\nname = "a"\npath = "/a"\nlist = "@"\nemit = [{ kind = "pattern", value = "p" }]\n'
    answer, sink = followed(text, bodies(a=[{"p": f"list{number}-%@a.test"} for number in range(5)]))
    (note,) = answer.notes
    assert note.startswith("5 patterns such as 'list0-%@a.test', 'list1-%@a.test', 'list2-%@a.test' match")
    assert "NOT in the map" in note
    assert answer.unlisted == ("a.test",)
    assert sink.entries == []
    assert answer.steps[0].emitted == 5


@pytest.mark.parametrize(
    ("pattern", "domain"), [("a%@a.test", "a.test"), ("a%@Ü.Example", "xn--tda.example"), ("%", "*"), ("a@%.test", "*")]
)
def test_the_domain_of_a_pattern(pattern: str, domain: str) -> None:
    """The source has recipients there that it does not list; "*" where the pattern does not say the domain."""
    text = '[[steps]]\nname = "a"\npath = "/a"\nlist = "@"\nemit = [{ kind = "pattern", value = "p" }]\n'
    answer, _ = followed(text, bodies(a=[{"p": pattern}]))
    assert answer.unlisted == (domain,)


# Look-ups

JOINED = """
[[steps]]
name = "d"
path = "/d"
list = "@"
where = [{ path = "on", true = true }]
[[steps]]
name = "a"
path = "/a"
list = "@"
join = [{ step = "d", key = "id", local = "ref", name = "of", KEYS }]
emit = [{ kind = "address", template = "{n}@{of.name}" }]
"""
DOMAINS = [{"id": 1, "name": "a.test", "on": 1}, {"id": "b", "name": "b.test", "on": 1}, {"id": 3, "name": "", "on": 0}]


@pytest.mark.parametrize(
    ("ref", "wanted"),
    [
        (1, "x@a.test"),
        ("1", "x@a.test"),
        ("b", "x@b.test"),
        (2, "ref is 2, but no record of step 'd' has this id"),
        (3, "no record of step 'd'"),
        ("B", "no record of step 'd'"),
        (None, "ref is null: nothing to look up"),
        ("", "nothing to look up"),
        ([], "an array cannot be compared"),
    ],
)
def test_lookups(ref: object, wanted: str) -> None:
    """A look-up finds the one record, or is an error; records that do not count are not found."""
    text = JOINED.replace(", KEYS", "")
    try:
        got = followed(text, bodies(d=DOMAINS, a=[{"n": "x", "ref": ref}]))[1].entries[0][0]
    except SourceError as error:
        got = str(error)
    assert wanted in got


def test_lookups_of_domains() -> None:
    """What is behind the @ is looked up in any case."""
    text = JOINED.replace("KEYS", 'part = "domain"').replace('key = "id"', 'key = "name"')
    assert followed(text, bodies(d=DOMAINS, a=[{"n": "x", "ref": "y@A.Test"}]))[1].entries[0][0] == "x@a.test"


def test_lookups_that_may_be_absent() -> None:
    """Where there may be nothing to look up, what would be found is null; another miss is still an error."""
    text = JOINED.replace("KEYS", "optional = true").replace('"{n}@{of.name}"', '"{n}"').replace('"ref"', '"ref?"')
    assert followed(text, bodies(d=DOMAINS, a=[{"n": "x@a.test"}]))[1].entries[0][0] == "x@a.test"
    with pytest.raises(SourceError, match="no record of step"):
        followed(text, bodies(d=DOMAINS, a=[{"n": "x@a.test", "ref": 9}]))


def test_keys() -> None:
    """The key of an entry is the API's own identifier, or else the address."""
    text = STEP.replace('"id"', '"id?"')
    _, sink = followed(text, bodies(a={"items": [{"id": 7, "mail": "x@a.test"}, {"id": None, "mail": "y@a.test"}]}))
    assert sink.entries == [("x@a.test", "7", "a"), ("y@a.test", "y@a.test", "a")]


def test_an_answer_in_another() -> None:
    """The body may be wrapped, or not; an empty object is an empty list only where the recipe says so."""
    text = STEP.replace('list = "items"', 'list = "@"\nunwrap = "result?"')
    record = {"id": 1, "mail": "x@a.test"}
    for body in ([record], {"result": [record]}):
        if isinstance(body, dict):
            assert len(followed(text, bodies(a=body))[1].entries) == 1
    with pytest.raises(SourceError, match="expected an object"):
        followed(text, bodies(a=[record]))
    with pytest.raises(SourceError, match="expected an array, got an object"):
        followed(text, bodies(a={}))
    assert followed(text + "empty_object = true\n", bodies(a={}))[1].entries == []
