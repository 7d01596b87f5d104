"""What live smtpds answer where Postfix is a later one than this host's: in a Debian that has it."""

from collections.abc import Callable

import pytest

from tests.support.debian import UNSTABLE, debian

pytestmark = [pytest.mark.proof, pytest.mark.timeout(5400)]

CHECKOUT = "/root/syncagent"
PACKAGES = "postfix postfix-lmdb postfix-cdb slapd ldap-utils faketime strace python3-venv"
VERDICTS = (
    "tests/end_to_end/test_verdicts.py",
    "tests/end_to_end/test_spellings.py",
    "tests/test_folding.py",
    "tests/end_to_end/test_doubt_live.py",
    "tests/end_to_end/test_form_c.py",
    "tests/end_to_end/test_month_of_faults.py",
)


@pytest.mark.parametrize("release", ["trixie", UNSTABLE])
def test_verdicts(release: str, record_property: Callable[[str, object], None]) -> None:
    """The tests that ask a live smtpd, the short form of the month of faults among them, pass there too."""
    with debian(release) as host:
        host.works("apt-get install make git")
        host.check_out(CHECKOUT)
        host.works(f".ci/setup {PACKAGES} && make .venv/ready", directory=CHECKOUT)
        version = host.works("postconf -d -h mail_version").strip()
        said = host.works(f".venv/bin/python -m pytest -q {' '.join(VERDICTS)}", directory=CHECKOUT)
        record_property("figures", f"Postfix {version}")
        record_property("figures", said.splitlines()[-1].strip("= "))
