"""Which tests `make check` leaves out: those that take seconds, most of them to wait or for processes of their own.

`make check` runs what is left, `make test` all but what is marked ``proof``, and `make proof` that.
"""

SLOW: tuple[str, ...] = (
    "agent/",
    "checks/",
    "end_to_end/",
    "sources/ldap/test_contract.py",
    "sources/ldap/test_failures.py",
    "sources/ldap/test_syncrepl.py",
    "sources/http/test_failures.py",
    "sources/http/test_mailman.py",
    "sources/http/test_contract.py",
    "sources/http/test_list.py::test_a_query_is_not_shown",
    "sources/test_diagnoses.py::test_three_entries",
    "test_awkward.py",
    "test_completion.py",
    "test_config.py::test_any_tables_give_a_configuration_or_problems",
    "test_crash.py",
    "test_disk.py",
    "test_domains.py",
    "test_doubt_boot.py",
    "test_doubt_kept.py",
    "test_doubt_law.py",
    "test_doubt_reports.py::test_five_thousand_domains_are_one_line",
    "test_doubt_switch.py",
    "test_explain.py",
    "test_guard_scenarios.py",
    "test_hold_reasons.py",
    "test_hold_scenarios.py::test_two_hosts_tell_of_a_slow_deletion_alike",
    "test_holds.py::TestHeldRecipients",
    "test_holds.py::test_two_backups_tell_of_a_slow_deletion_alike",
    "test_holds.py::test_what_a_frozen_hold_has_counts_for_nothing_else",
    "test_init.py",
    "test_io_errors.py::test_each_read_of_the_database_fails_once",
    "test_ledger.py",
    "test_limits.py",
    "test_manual.py",
    "test_notify.py",
    "test_privileges.py",
    "test_publish.py",
    "test_readme.py",
    "test_secrets.py::test_an_",
    "test_secrets.py::test_the_agent",
    "test_special_files.py",
    "test_state_machine.py",
    "test_status.py",
    "test_streams.py",
    "test_support_ldap.py",
    "test_systemd.py",
    "test_tiers.py",
    "test_v0_1_0.py",
    "test_verdict.py",
    "test_waiting.py",
)
"""Beginnings of names below tests/: whole directories, files, or tests of a file."""


def is_slow(name: str) -> bool:
    """True if the test of this name, `agent/test_x.py::test_y[z]`, is one of the slow ones."""
    return name.startswith(SLOW)
