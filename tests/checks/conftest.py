"""What the tests of the checks share."""

from collections.abc import Iterator

import pytest

from tests.checks import Backup
from tests.support.need import need_postfix


@pytest.fixture
def backup() -> Iterator[Backup]:
    """A backup MX that is all right; its Postfix does not run."""
    need_postfix("lmdb")
    made = Backup.make()
    made.publish()
    yield made
    made.postfix.stop()
