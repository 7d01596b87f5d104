"""A real Mailman core, asked by its recipe: every list, all of its addresses, in every domain that it is in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from syncagent.errors import FailureKind
from syncagent.sync.fetch import REFUSED_FOR
from tests.sources.http import Asked, addresses, secret
from tests.support.mailman import Mailman

_WORDS = ("bounces", "confirm", "join", "leave", "owner", "request", "subscribe", "unsubscribe")
SUFFIXES = ("", *(f"-{word}" for word in _WORDS))
PAGE = 100
WRONG = "another-password"


@pytest.fixture(scope="module")
def server() -> Iterator[Mailman]:
    """A Mailman for all of them."""
    with Mailman() as mailman:
        yield mailman


@pytest.fixture
def mailman(server: Mailman) -> Iterator[Mailman]:
    """A Mailman without a domain."""
    yield server
    server.start()
    server.clear()


def asks(mailman: Mailman, directory: Path, password: str | None = None, **keys: Any) -> Asked:  # noqa: ANN401 - any key
    """Return a source that asks it."""
    file = secret(directory, password or mailman.password)
    return Asked(
        directory, mailman.url, recipe="mailman3", username=mailman.username, password_file=file, insecure=True, **keys
    )


def all_of(*lists: str) -> list[str]:
    """Return all addresses of these lists."""
    parts = (one.partition("@") for one in lists)
    return sorted(f"{name}{suffix}@{domain}" for name, _, domain in parts for suffix in SUFFIXES)


def test_some_lists(mailman: Mailman, tmp_path: Path) -> None:
    """A list has its address and eight more, whichever domain it is in."""
    mailman.add_domain("example.com")
    mailman.add_domain("example.org")
    lists = ["announce@example.com", "Dev.Talk@example.com", "announce@example.org"]
    mailman.add_lists(lists)
    fetched = asks(mailman, tmp_path).whole()
    assert addresses(fetched) == all_of(*(one.lower() for one in lists))
    assert fetched.report.mode == "mailman3"
    (step,) = (one for one in fetched.report.steps if one.name == "lists")
    assert (step.pages, step.records, step.kept, step.emitted) == (2, 3, 3, 27)


def test_a_list_comes_and_goes(mailman: Mailman, tmp_path: Path) -> None:
    """A list that is created comes, and one that is deleted goes with all of its addresses."""
    mailman.add_domain("example.com")
    mailman.add_lists(["one@example.com", "two@example.com"])
    asked = asks(mailman, tmp_path)
    assert asked.addresses() == all_of("one@example.com", "two@example.com")
    mailman.delete_list("one@example.com")
    mailman.add_lists(["three@example.com"])
    assert asked.addresses() == all_of("two@example.com", "three@example.com")


@pytest.mark.parametrize("domains", [0, 1], ids=["no-domain", "a-domain"])
def test_no_list(domains: int, mailman: Mailman, tmp_path: Path) -> None:
    """A Mailman without a list is a failure, and an empty answer where that may be."""
    if domains:
        mailman.add_domain("example.com")
    asked = asks(mailman, tmp_path)
    failed = asked.fetch()
    assert failed.report.state == "failing"
    assert "no entry at all" in failed.report.error
    asked.configured = replace(asked.configured, common=replace(asked.configured.common, allow_empty=True))
    assert asked.addresses() == []


@pytest.mark.parametrize("count", [PAGE, PAGE + 1, 2 * PAGE])
def test_more_lists_than_a_page(count: int, mailman: Mailman, tmp_path: Path) -> None:
    """However many lists there are, all are found; the last page asked for is empty."""
    mailman.add_domain("example.com")
    lists = [f"list{number}@example.com" for number in range(count)]
    mailman.add_lists(lists)
    before = len(mailman.asked())
    fetched = asks(mailman, tmp_path).whole()
    assert addresses(fetched) == all_of(*lists)
    (step,) = (one for one in fetched.report.steps if one.name == "lists")
    assert (step.pages, step.records) == (-(-count // PAGE) + 1, count)
    assert sum("/lists?" in one for one in mailman.asked()[before:]) == step.pages


def test_an_alias_domain(mailman: Mailman, tmp_path: Path) -> None:
    """A domain's alias_domain has every address of its lists as well, and those of no other domain."""
    mailman.add_domain("example.com", alias_domain="example.net")
    mailman.add_domain("example.org")
    mailman.add_lists(["one@example.com", "two@example.org"])
    asked = asks(mailman, tmp_path)
    assert asked.addresses() == all_of("one@example.com", "one@example.net", "two@example.org")


def test_more_domains_than_a_page(mailman: Mailman, tmp_path: Path) -> None:
    """An alias_domain counts on whichever page of domains it is."""
    for number in range(PAGE + 5):
        mailman.add_domain(f"d{number:03}.example.com", alias_domain=f"d{number:03}.example.net")
    lists = [f"one@d{number:03}.example.com" for number in (0, PAGE - 1, PAGE, PAGE + 4)]
    mailman.add_lists(lists)
    also = [one.replace(".com", ".net") for one in lists]
    assert asks(mailman, tmp_path).addresses() == all_of(*lists, *also)


def test_a_wrong_password(mailman: Mailman, tmp_path: Path) -> None:
    """A wrong password is a refusal, which is not repeated within the hour; nothing is removed."""
    mailman.add_domain("example.com")
    mailman.add_lists(["one@example.com"])
    asked = asks(mailman, tmp_path)
    asked.whole()
    file = Path(asked.configured.own.password_file)
    file.write_text(WRONG, "utf-8")
    before = len(mailman.asked())
    for later in (0, 10, REFUSED_FOR - 10):
        failed = asked.fetch(1e9 + 1 + later)
        assert failed.report.kind == FailureKind.REFUSED
        assert addresses(failed) == all_of("one@example.com")
        assert WRONG not in f"{failed}"
    assert [one.rpartition(" ")[2] for one in mailman.asked()[before:]] == ["401"]
    file.write_text(mailman.password, "utf-8")
    assert asked.addresses() == all_of("one@example.com")


def test_a_mailman_that_is_down(mailman: Mailman, tmp_path: Path) -> None:
    """A Mailman that does not run fails the source, nothing is removed, and what changed meanwhile comes after it."""
    mailman.add_domain("example.com")
    mailman.add_lists(["one@example.com", "two@example.com"])
    asked = asks(mailman, tmp_path)
    before = asked.addresses()
    mailman.delete_list("two@example.com")
    mailman.stop()
    failed = asked.fetch()
    assert (failed.report.state, failed.report.kind) == ("failing", FailureKind.TEMPORARY)
    assert mailman.url in failed.report.error
    assert addresses(failed) == before
    mailman.start()
    assert asked.addresses() == all_of("one@example.com")
