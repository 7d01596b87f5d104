"""What holds for every test: hypothesis is patient with a slow machine, and finds the same in CI each time; tiers."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from syncagent import redaction
from tests.tiers import is_slow

pytest.register_assert_rewrite("tests.support.agent", "tests.sources.contract")  # before anything imports them

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("ci", settings.get_profile("patient"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI", "").casefold() in {"true", "1"} else "patient")


@pytest.fixture(autouse=True)
def _no_secret_is_known() -> Iterator[None]:
    """Forget the secrets that a test read: messages of later tests may have the same words."""
    yield
    redaction.forget()


def pytest_configure() -> None:
    """Take back that INT is ignored, which a shell says by `&`: programs that a test interrupts would inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make check` leaves out; they go first, so that no long file is begun when all others end."""
    for item in items:
        if is_slow(item.nodeid.removeprefix("tests/")):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
