"""What a test does where the real part it needs is missing: skip at home, fail in CI."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.postmap import minimal_config, postmap_build, postmap_query, settle
from tests.support.programs import ProgramError, find_program

_Found = TypeVar("_Found")


def need(what: str, found: _Found | None) -> _Found:
    """Give back what was found; where it is None or false, skip the test, or fail it under CI=true."""
    if found:
        return found
    reason = f"needs {what}, which is not here"
    if os.environ.get("CI", "").casefold() in {"true", "1"}:
        pytest.fail(f"{reason}, and in CI nothing may be skipped", pytrace=False)
    pytest.skip(reason)


def need_program(name: str) -> str:
    """Give the path of a program that the test runs."""
    return need(f"the program {name}", find_program(name))


def need_root() -> None:
    """Only root can do what the test does."""
    need("to be run by root", os.geteuid() == 0)


def need_postmap(map_type: str) -> str:
    """Give the path of a postmap that can write maps of this type and answer from them."""
    postmap = need_program("postmap")
    need_program("postconf")
    need(f"a Postfix with {map_type} maps", _answers(map_type))
    return postmap


def need_postfix(map_type: str = "texthash") -> None:
    """Make sure that a private Postfix reading a map of this type can be started."""
    need_root()
    need_program("postfix")
    need_postmap(map_type)


@cache
def _answers(map_type: str) -> bool:
    """Whether a map of this type can be built and read here, by trying it."""
    with tempfile.TemporaryDirectory(prefix="need-postmap-") as folder:
        config = minimal_config(Path(folder) / "config")
        source = Path(folder) / "map"
        source.write_text("known@example.com OK\n", encoding="ascii")
        settle(source)
        try:
            if map_type != "texthash":
                postmap_build(config, f"{map_type}:{source}")
            return postmap_query(config, f"{map_type}:{source}", b"known@example.com") == b"OK"
        except ProgramError:
            return False
