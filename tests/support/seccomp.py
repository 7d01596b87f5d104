"""Run a command under a unit's SystemCallFilter and RestrictAddressFamilies, without systemd.

A script that needs nothing but the standard library and libseccomp, so that any Python and any user can run it:
seccomp.py PLAN COMMAND..., where PLAN is JSON: the system calls that are allowed, and the numbers of the families.
"""

import ctypes
import errno
import json
import os
import sys

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQUAL = 4
_NO_NEW_PRIVS, _MDWE, _REFUSE_EXEC_GAIN = 38, 65, 1


class _Compare(ctypes.Structure):
    """The struct scmp_arg_cmp: what an argument of a system call has to be."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def restrict(allowed: list[str], families: list[int]) -> None:
    """Restrict this process and its children for good; whatever else they try is refused with EPERM."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO | errno.EPERM))

    def rule(action: int, name: str, *compare: _Compare) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != -1:  # one that this libseccomp does not know
            done = seccomp.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(compare), (_Compare * len(compare))(*compare)
            )
            if done < 0:
                raise OSError(-done, f"no rule for {name}")

    for name in allowed:
        if name not in {"clone3", "socket"}:
            rule(_ALLOW, name)
    rule(_ERRNO | errno.ENOSYS, "clone3")  # as RestrictNamespaces has it: its flags cannot be looked at
    for family in families:
        rule(_ALLOW, "socket", _Compare(0, _EQUAL, family, 0))
    libc.prctl(_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)  # since Linux 6.3
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or seccomp.seccomp_load(context) < 0:
        raise OSError("the filter cannot be loaded")


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    restrict(plan["allowed"], plan["families"])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is wanted
