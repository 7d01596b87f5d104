"""contrib/doubt-switch.sh, the dead man's switch: when it fires, what it leaves, and that nothing stops it half-way."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.doubt import ALL, LIMIT, SCRIPT, TABLE, VALUE, DoubtDirectory, Ran, run_switch, switch
from tests.support.need import need_postfix, need_postmap, need_program, need_root
from tests.support.postfix import PrivatePostfix

FORM_C = "check_recipient_access {map}, check_recipient_access lmdb:{doubt}, reject_unlisted_recipient"


@pytest.fixture
def doubt(tmp_path: Path) -> DoubtDirectory:
    """A directory whose syncagent is alive."""
    need_postmap("lmdb")
    return DoubtDirectory(tmp_path / "doubt")


def _one_line(ran: Ran, level: int) -> str:
    """Assert that it logged one line with this level of syslog, and return it."""
    (line,) = ran.said.splitlines()
    assert line.startswith(f"<{level}>"), line
    return line


# --- when it fires


def _write(text: str) -> Callable[[Path], object]:
    return lambda alive: alive.write_text(text, encoding="utf-8")


def _now(ahead: float = 0) -> int:
    return int(time.time() + ahead)


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what removes a file and has something else made in its place."""

    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _huge(alive: Path) -> None:
    alive.write_text("x\n", encoding="ascii")
    os.truncate(alive, 1 << 40)


DEAD: dict[str, Callable[[Path], object]] = {
    "old": lambda alive: alive.write_text(f"written {_now(-LIMIT - 5)}\nlimit {LIMIT}\n"),
    "missing": Path.unlink,
    "empty": _write(""),
    "garbage": _write("garbage\n"),
    "one line": lambda alive: alive.write_text(f"written {_now()}\n"),
    "no digits": _write("written now\nlimit 900\n"),
    "negative": lambda alive: alive.write_text(f"written {_now()}\nlimit -1\n"),
    "octal": lambda alive: alive.write_text(f"written 0{_now()}\nlimit 900\n"),
    "hexadecimal": lambda alive: alive.write_text(f"written {_now():#x}\nlimit 900\n"),
    "arithmetic": lambda alive: alive.write_text(f"written {_now()}+0\nlimit 900\n"),
    "more on the line": lambda alive: alive.write_text(f"written {_now()} 1\nlimit 900\n"),
    "CR": lambda alive: alive.write_bytes(b"written %d\r\nlimit 900\r\n" % _now()),
    "too long": lambda alive: alive.write_text(f"written {_now()}\nlimit {'9' * 40}\n"),
    "other words": lambda alive: alive.write_text(f"limit {_now()}\nwritten 900\n"),
    "NUL": lambda alive: alive.write_bytes(bytes(3000)),
    "future": lambda alive: alive.write_text(f"written {_now(700)}\nlimit {LIMIT}\n"),
    "FIFO": _instead(os.mkfifo),
    "directory": _instead(Path.mkdir),
    "link to itself": _instead(lambda alive: alive.symlink_to("alive")),
    "huge": _huge,
}


@pytest.mark.parametrize("case", DEAD)
def test_dead(doubt: DoubtDirectory, case: str) -> None:
    """It switches, says so in one line with the reason, and is silent from then on."""
    DEAD[case](doubt.path / "alive")
    ran = switch(doubt.path)
    assert ran.status == 0
    assert str(doubt.path / "doubt") in _one_line(ran, 3)
    assert ("alive" in ran.said) or ("last at work" in ran.said)
    doubt.switched()
    files = doubt.files()
    assert switch(doubt.path) == (0, "")
    assert doubt.files() == files


def test_unreadable(doubt: DoubtDirectory) -> None:
    """An `alive` that the owner of the directory may not read is no sign of life."""
    need_root()
    nobody = pwd.getpwnam("nobody")
    doubt.path.parent.chmod(0o755)
    doubt.give_to(nobody.pw_uid, nobody.pw_gid)
    os.chown(doubt.path / "alive", 0, 0)
    (doubt.path / "alive").chmod(0o600)
    for folder in doubt.path.parents:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode & 0o7777 | 0o011)
    assert switch(doubt.path).status == 0
    doubt.switched()


@pytest.mark.parametrize("age", [0, LIMIT - 60, -500])
def test_alive(doubt: DoubtDirectory, age: int) -> None:
    """Nothing happens, but that the switch leaves word of having looked."""
    doubt.write_alive(age)
    files = doubt.files()
    assert switch(doubt.path) == (0, "")
    assert doubt.files() == files
    assert doubt.names() - files.keys() == {"doubt-switch-seen"}
    seen = doubt.path / "doubt-switch-seen"
    os.utime(seen, (1, 1))
    assert switch(doubt.path) == (0, "")
    assert seen.stat().st_mtime > 1


def test_lines_of_a_later_version(doubt: DoubtDirectory) -> None:
    """What stands in `alive` below its two lines is no reason to switch: the script may be older than syncagent."""
    with (doubt.path / "alive").open("a", encoding="ascii") as alive:
        alive.write("runs 1 2 3 4 5\nlater 1\n")
    assert switch(doubt.path) == (0, "")
    assert not doubt.in_doubt


def test_boot(doubt: DoubtDirectory) -> None:
    """With --boot it switches in any case; what looks every five minutes was not seen by that."""
    ran = switch(doubt.path, "--boot")
    assert ran.status == 0
    _one_line(ran, 5)
    doubt.switched("boot")
    assert "doubt-switch-seen" not in doubt.names()
    assert switch(doubt.path, "--boot") == (0, ""), "it is in force already"
    assert switch(doubt.path) == (0, "")
    assert doubt.mark == "boot"


def test_dead_after_boot(doubt: DoubtDirectory) -> None:
    """A doubt-all that was made since, by a syncagent that died then, is put in force as well."""
    switch(doubt.path, "--boot")
    doubt.build("doubt", TABLE)
    doubt.publish_all()
    doubt.write_alive(LIMIT + 5)
    switch(doubt.path)
    doubt.switched("dead")


def test_a_run_that_has_found_the_mark_is_left_alone(doubt: DoubtDirectory) -> None:
    """Between making doubt-all anew and removing the mark, nothing is switched back under its hands."""
    switch(doubt.path, "--boot")
    doubt.build("doubt", TABLE + f"example.com {VALUE}\n")
    doubt.build("doubt-all", ALL)
    newer = time.time() + 1
    os.utime(doubt.path / "doubt-all.lmdb", (newer, newer))
    files = doubt.files()
    assert switch(doubt.path) == (0, "")
    assert doubt.files() == files


# --- what it cannot put in force


def _link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def _without(name: str, make: Callable[[Path], object] = Path.exists) -> Callable[[Path], None]:
    return lambda path: _instead(make)(path / name)


def _neither(path: Path) -> None:
    (path / "doubt-all").unlink()
    (path / "doubt-all.lmdb").unlink()


def _text(content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / "doubt-all").write_bytes(content)


BROKEN: dict[str, Callable[[Path], object]] = {
    "no index": _without("doubt-all.lmdb"),
    "index is a FIFO": _without("doubt-all.lmdb", os.mkfifo),
    "index is a directory": _without("doubt-all.lmdb", Path.mkdir),
    "index is a link": lambda path: _link(path / "doubt-all.lmdb"),
    "neither": _neither,
    "no text": _without("doubt-all"),
    "text is a FIFO": _without("doubt-all", os.mkfifo),
    "text is garbage": _text(bytes(range(256)) * 100),
    "text is another": _text(TABLE.encode()),
    "another directory": _text(b"# doubt-all of ../doubt\n"),
    "no name": _text(b"# doubt-all of \n"),
    "its own name": _text(b"# doubt-all of alive\n"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_to_switch_to(doubt: DoubtDirectory, case: str) -> None:
    """It fails with the command that helps, and touches nothing; while syncagent is alive that is no matter."""
    BROKEN[case](doubt.path)
    before = doubt.files()
    assert switch(doubt.path) == (0, "")
    (doubt.path / "alive").unlink()
    del before["alive"]
    ran = switch(doubt.path)
    assert ran.status == 73
    assert "syncagent sync" in _one_line(ran, 3)
    assert doubt.files() == before


def test_no_directory(tmp_path: Path) -> None:
    """A directory that is not there is named."""
    ran = switch(tmp_path / "none")
    assert ran.status == 73
    assert f"{tmp_path}/none: no such directory" in ran.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "no directory"), (("",), "no directory"), (("a", "b"), "more than one"), (("--bot", "a"), "--bot")],
)
def test_usage(arguments: tuple[str, ...], words: str) -> None:
    """Wrong usage: 64, with the right one."""
    ran = run_switch(*arguments)
    assert ran.status == 64
    assert words in ran.said
    assert "usage: doubt-switch.sh DIR [--boot]" in ran.said


def test_help() -> None:
    """--help is no error."""
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: doubt-switch.sh DIR [--boot]\n")
    assert done.stderr == ""


# --- killed, or two at once


def _killed_at(tmp_path: Path, call: int, when: str) -> Path:
    """Return a script as ours whose PATH has, first, an mv that kills it before or after its so manieth call."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "mv").write_text(
        "#!/bin/sh\n"
        f'echo >>{tmp_path}/calls\n[ "$(wc -l <{tmp_path}/calls)" = {call} ] || exec /bin/mv "$@"\n'
        f'[ {when} = before ] || /bin/mv "$@"\nkill -9 0\n',
        encoding="utf-8",
    )
    (folder / "mv").chmod(0o755)
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count("\nPATH=") == 1
    script = tmp_path / "doubt-switch.sh"
    script.write_text(text.replace("\nPATH=", f"\nPATH={folder}:"), encoding="utf-8")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("alive", [False, True], ids=["dead", "alive-again"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3], ids=["mark", "index", "text"])
def test_killed(doubt: DoubtDirectory, tmp_path: Path, call: int, when: str, *, alive: bool) -> None:
    """Killed around any of its renames, the next run finishes; where nothing was begun and all is well, nothing."""
    doubt.write_alive(LIMIT + 5)
    script = _killed_at(tmp_path, call, when)
    assert switch(doubt.path, script=script, before=["setsid", "--wait"]).status != 0
    if alive:
        doubt.write_alive(0)
    assert doubt.in_doubt == ((call, when) >= (2, "after") and (call, when) != (2, "before"))
    began = (call, when) != (1, "before")
    assert switch(doubt.path).status == 0
    if alive and not began:
        assert not doubt.in_doubt
        assert doubt.mark is None
    else:
        doubt.switched()
    assert switch(doubt.path) == (0, "")


def test_two_at_once(doubt: DoubtDirectory) -> None:
    """Whichever is faster does it; the others find it done. Every time."""
    doubt.write_alive(LIMIT + 5)
    saved = doubt.path.with_name("saved")
    shutil.copytree(doubt.path, saved)
    for _ in range(15):
        started = [subprocess.Popen([SCRIPT, doubt.path], stderr=subprocess.DEVNULL) for _ in range(8)]
        assert [process.wait() for process in started] == [0] * 8
        doubt.switched()
        shutil.rmtree(doubt.path)
        shutil.copytree(saved, doubt.path)


# --- a directory that cannot be written, a full disk


@pytest.fixture
def nobody(doubt: DoubtDirectory) -> pwd.struct_passwd:
    """Give the directory to the user nobody, who can reach it."""
    need_root()
    user = pwd.getpwnam("nobody")
    doubt.give_to(user.pw_uid, user.pw_gid)
    for folder in doubt.path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode & 0o7777 | 0o011)
    return user


@pytest.mark.parametrize("age", [0, LIMIT + 5])
def test_not_writable(doubt: DoubtDirectory, nobody: pwd.struct_passwd, age: int) -> None:
    """It fails whether or not there is anything to do: it could not do it when there is."""
    assert nobody
    doubt.write_alive(age)
    doubt.path.chmod(0o555)
    files = doubt.files()
    ran = switch(doubt.path)
    assert ran.status == 73
    assert str(doubt.path) in _one_line(ran, 3)
    assert doubt.files() == files


def test_read_only_file_system(doubt: DoubtDirectory) -> None:
    """Likewise where the whole file system is read-only."""
    need_root()
    (doubt.path / "alive").unlink()
    mount = f"mount --bind {doubt.path} {doubt.path} && mount -o remount,bind,ro {doubt.path}"
    ran = switch(doubt.path, before=["unshare", "--mount", "sh", "-c", mount + ' && exec "$@"', "sh"])
    assert ran.status == 73
    assert "Read-only file system" in _one_line(ran, 3)
    assert not doubt.in_doubt


def test_full_disk(doubt: DoubtDirectory) -> None:
    """It needs no room: the table is switched though nothing can be written."""
    need_root()
    (doubt.path / "alive").unlink()
    script = f"""
        mount -t tmpfs -o size=256k,mode=0755 none /mnt
        cp -p {doubt.path}/* /mnt
        cat /dev/zero >/mnt/filler 2>/dev/null
        ! echo x 2>/dev/null >/mnt/new || exit 9
        "$@" /mnt || exit
        cp -p /mnt/doubt /mnt/doubt.lmdb /mnt/doubt-switched {doubt.path}
        [ ! -e /mnt/doubt-all ] && [ ! -e /mnt/doubt-all.lmdb ]
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    assert doubt.in_doubt
    assert (doubt.path / "doubt").read_text() == ALL
    assert (doubt.path / "doubt-switched").read_text() == ""


# --- root and others


def test_root_becomes_the_owner(doubt: DoubtDirectory, nobody: pwd.struct_passwd) -> None:
    """Run by root, the files that it makes are the owner's."""
    doubt.write_alive(LIMIT + 5)
    assert switch(doubt.path).status == 0
    doubt.switched()
    for name in ("doubt-switched", "doubt-switch-seen"):
        made = (doubt.path / name).stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (nobody.pw_uid, nobody.pw_gid, 0o644)


def test_an_owner_without_an_account(doubt: DoubtDirectory, nobody: pwd.struct_passwd) -> None:
    """In a container the owner may be a number only."""
    assert nobody
    doubt.give_to(54321, 0)
    doubt.write_alive(LIMIT + 5)
    assert switch(doubt.path).status == 0
    doubt.switched()
    made = (doubt.path / "doubt-switched").stat()
    assert (made.st_uid, made.st_gid) == (54321, 65534), "not the group of root"


@pytest.mark.parametrize("name", ["doubt-all", "doubt-all.lmdb", "doubt", "doubt.lmdb", "alive", "by-hand"])
@pytest.mark.parametrize("beside", ["doubt-switched", ".doubt-switched.new", "doubt-switch-seen"])
def test_planted_links(
    doubt: DoubtDirectory, nobody: pwd.struct_passwd, tmp_path: Path, name: str, beside: str
) -> None:
    """Links in a directory of another user lead root nowhere: a file of root's keeps all that it has."""
    assert nobody
    victim = tmp_path / "victim"
    victim.write_text("# doubt-all of doubt\n", encoding="ascii")
    os.utime(victim, (1, 1))
    for planted in (name, beside):
        (doubt.path / planted).unlink(missing_ok=True)
        (doubt.path / planted).symlink_to(victim)
    doubt.write_alive(LIMIT + 5) if name != "alive" else None
    for option in ((), ("--boot",), ()):
        switch(doubt.path, *option)
    status = victim.lstat()
    assert (status.st_uid, status.st_mtime, victim.read_text("ascii")) == (0, 1, "# doubt-all of doubt\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doubt", "doubt.postfix", "victim"]


@pytest.mark.parametrize(("mode", "gid"), [(0o757, 0), (0o775, 65534), (0o1777, 0)])
def test_a_directory_of_root_where_others_may_write(doubt: DoubtDirectory, mode: int, gid: int) -> None:
    """Root does not work where another user may plant anything; the message has the remedy."""
    need_root()
    os.chown(doubt.path, 0, gid)
    doubt.path.chmod(mode)
    (doubt.path / "alive").unlink()
    before = doubt.names()
    ran = switch(doubt.path)
    assert ran.status == 73
    assert f"chmod go-w {doubt.path}" in _one_line(ran, 3)
    assert doubt.names() == before
    doubt.path.chmod(0o775)
    os.chown(doubt.path, 0, 0)
    assert switch(doubt.path).status == 0
    doubt.switched()


def test_another_user_is_refused(doubt: DoubtDirectory, nobody: pwd.struct_passwd) -> None:
    """Neither the owner nor root: it says who it has to be."""
    need_program("setpriv")
    daemon = pwd.getpwnam("daemon")
    shared = ["setpriv", f"--reuid={daemon.pw_uid}", f"--regid={daemon.pw_gid}", "--clear-groups"]
    ran = switch(doubt.path, before=shared)
    assert ran.status == 73
    assert f"belongs to uid {nobody.pw_uid}" in _one_line(ran, 3)
    assert not doubt.in_doubt


# --- what smtpd answers


def test_smtpd(tmp_path: Path) -> None:
    """With form C, an unknown recipient gets 450 from the first session after the switch on; a known one gets 250."""
    need_postfix("lmdb")
    home = tmp_path / "postfix"
    doubt = DoubtDirectory(home / "doubt")
    lines = FORM_C.format(map=f"lmdb:{home}/maps/relay_recipients", doubt=doubt.path / "doubt")
    asked = ["known@example.com", "unknown@example.com", "anybody@example.net"]
    settings = {"smtpd_sender_restrictions": lines, "default_transport": "discard:"}  # error: is refused as unlisted
    postfix = PrivatePostfix(["example.com"], map_type="lmdb", directory=home, **settings)
    postfix.build_map("known@example.com OK\n")
    with postfix, postfix.client() as opened:
        for session in (None, opened):
            assert [answer.code for answer in postfix.verdicts(asked, client=session)] == [250, 550, 554]
        assert switch(doubt.path) == (0, "")
        (doubt.path / "alive").unlink()
        assert switch(doubt.path).status == 0
        # Measured of Postfix: a session that is open goes on with the tables that it opened, the map's included.
        assert [answer.code for answer in postfix.verdicts(asked, client=opened)] == [250, 550, 554]
        opened.close()
        for session in (None, opened):
            assert [answer.code for answer in postfix.verdicts(asked, client=session)] == [250, 450, 554]
        assert postfix.verdict("syncagent-doubt-probe@example.com").code == 450
