"""Form C in real smtpds: on a stock Debian, and beside blocklists, a policy service, a milter, SASL, TLS, postscreen.

One domain is in doubt, since its source fails, and another is not. Everything runs in a throw-away copy of this host.
"""

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.faketime import Clock
from tests.support.need import need_program
from tests.support.programs import wait_until
from tests.support.throwaway import ThrowawayHost

KNOWN, DEFERRED, UNKNOWN = 250, 450, 550
SAME = "known@doubt.example", "nobody@doubt.example", "known@calm.example", "nobody@calm.example", "a@foreign.example"
LISTED, CLEAN = "127.0.0.2", "127.0.0.1"
BLOCKLIST = "bl.example.net"

_CONFIG = """\
[postfix]
map = "lmdb:/var/lib/syncagent/relay_recipients"
relay_domains = ["doubt.example", "calm.example"]
doubt_map = "lmdb:/var/lib/syncagent/doubt"
doubt_new = "0s"

[sources.doubt]
type = "file"
path = "/srv/doubt"

[sources.calm]
type = "file"
path = "/srv/calm"
"""
_FORM_C = (
    "check_recipient_access lmdb:/var/lib/syncagent/relay_recipients,"
    " check_recipient_access lmdb:/var/lib/syncagent/doubt, reject_unlisted_recipient"
)
_RELAY = {
    "relay_domains": "doubt.example, calm.example",
    "relay_recipient_maps": "lmdb:/var/lib/syncagent/relay_recipients",
    "mynetworks": "",
    "myhostname": "backup.example.net",
    "mydestination": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "alias_database": "",
    "relay_transport": "discard:",
    "smtpd_peername_lookup": "no",
    "maillog_file": "/var/log/mail.log",
    "smtpd_error_sleep_time": "0",
    "smtpd_soft_error_limit": "1000",
    "smtpd_hard_error_limit": "1000",
}
_ASK = """
import json, smtplib, ssl, sys
addresses, sender, source, way = json.loads(sys.argv[1])
client = smtplib.SMTP("127.0.0.1", timeout=120, source_address=(source, 0))
client.ehlo("client.example.net")
if way in {"tls", "sasl"}:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert client.starttls(context=context)[0] == 220
    client.ehlo("client.example.net")
if way == "sasl":
    client.login("user", "password")
codes = []
for address in addresses:
    client.rset()
    client.mail(sender)
    codes.append(client.rcpt(address)[0])
print(json.dumps(codes))
"""
_POLICY = """
import sys
asked = {}
for line in sys.stdin:
    name, _, value = line.rstrip("\\n").partition("=")
    if name:
        asked[name] = value
        continue
    action = "REJECT by policy" if asked.get("sender") == "policy@bad.example" else "DUNNO"
    print(f"action={action}\\n", flush=True)
    asked = {}
"""
_MILTER = """
import socketserver, struct

class Milter(socketserver.StreamRequestHandler):
    def handle(self):
        sender = b""
        while len(head := self.rfile.read(4)) == 4:
            body = self.rfile.read(struct.unpack("!I", head)[0])
            command, rest = body[:1], body[1:]
            if command == b"O":
                answer = b"O" + struct.pack("!III", 2, 0, 0)
            elif command in {b"D", b"A"}:
                continue
            elif command == b"Q":
                return
            else:
                if command == b"M":
                    sender = rest
                answer = b"r" if command == b"R" and b"milter@bad.example" in sender else b"c"
            self.wfile.write(struct.pack("!I", len(answer)) + answer)

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", 8891), Milter).serve_forever()
"""
_AUTH = """
import os, socketserver

class Auth(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"VERSION\\t1\\t1\\nMECH\\tPLAIN\\tplaintext\\nSPID\\t1\\nCUID\\t1\\nCOOKIE\\t00\\nDONE\\n")
        for line in self.rfile:
            words = line.decode().rstrip("\\n").split("\\t")
            if words[0] == "AUTH":
                self.wfile.write(f"OK\\t{words[1]}\\tuser=user\\n".encode())

path = "/var/spool/postfix/private/auth"
if os.path.exists(path):
    os.unlink(path)
server = socketserver.ThreadingUnixStreamServer(path, Auth)
os.chmod(path, 0o666)
server.serve_forever()
"""
_READY = f"""\
test -S /var/spool/postfix/private/auth || exit 0
'{sys.executable}' -c 'import socket; socket.create_connection(("127.0.0.1", 8891))' 2>/dev/null && echo yes || true
"""
_MASTER = """
policy unix - n n - 0 spawn user=nobody argv={python} /srv/policy.py
"""
_POSTSCREEN = r"""
sed -i -E 's/^smtp +inet .* smtpd$/smtp inet n - n - 1 postscreen/' /etc/postfix/master.cf
cat >>/etc/postfix/master.cf <<'END'
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
END
postfix reload
"""


class _Mx:
    """A backup MX in the throw-away host."""

    def __init__(self, host: ThrowawayHost) -> None:
        self.host = host
        host.put_program()
        host.write("/etc/syncagent/syncagent.toml", _CONFIG)
        host.write("/srv/ask.py", _ASK)
        for name in ("doubt", "calm"):
            host.write(f"/srv/{name}", f"known@{name}.example\n")
        host.run("mkdir -p /var/lib/syncagent; cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf")
        self.clock = Clock(0)
        for code in (0, 0, 75):
            if code:
                host.run("rm /srv/doubt")
            env = " ".join(f"{name}={value}" for name, value in self.clock.env.items())
            host.run(f"status=0; env {env} /opt/syncagent/bin/syncagent sync || status=$?; test $status = {code}")
            self.clock.step(3600)

    def start(self, **parameters: str) -> None:
        """Start Postfix with Debian's own main.cf, and these parameters besides those of a backup MX."""
        host = self.host
        host.put_master_cf()
        host.run("rm -f /var/spool/postfix/pid/*")
        self.set(**_RELAY, **parameters)
        # As Debian's script does before it starts Postfix, for the daemons in their chroot.
        host.run("mkdir -p /var/spool/postfix/etc; cp /etc/resolv.conf /etc/services /var/spool/postfix/etc/")
        host.run("postfix start")

    def set(self, **parameters: str) -> None:
        """Change main.cf."""
        for name, value in parameters.items():
            self.host.run(f"postconf -e '{name} = {value}'")
        self.host.run("touch -d '1 minute ago' /etc/postfix/main.cf")

    def codes(self, sender: str = "", source: str = CLEAN, way: str = "plain") -> list[int]:
        """Return what the five recipients get: known and unknown of a domain in doubt, and of another; foreign."""
        asked = json.dumps([SAME, sender, source, way])
        answered: list[int] = json.loads(self.host.run(f"'{sys.executable}' /srv/ask.py '{asked}'"))
        return answered


@pytest.fixture
def mx() -> Iterator[_Mx]:
    """Yield a backup MX with one of its two domains in doubt."""
    with ThrowawayHost() as host:
        yield _Mx(host)


def test_on_a_stock_debian(mx: _Mx) -> None:
    """Debian's own main.cf, which answers 454 for foreign domains with a doubt table or without."""
    mx.start(smtpd_sender_restrictions=_FORM_C)
    assert mx.codes() == [KNOWN, DEFERRED, KNOWN, UNKNOWN, 454]


def _serve(mx: _Mx) -> None:
    """Start a nameserver with a blocklist, a policy service, a milter and an authentication server."""
    host = mx.host
    need_program("dnsmasq")
    for name, text in {"policy": _POLICY, "milter": _MILTER, "auth": _AUTH}.items():
        host.write(f"/srv/{name}.py", text)
    host.run("echo nameserver 127.0.0.1 >/srv/resolv.conf; cat /srv/resolv.conf >/etc/resolv.conf")
    listed = f"{'.'.join(reversed(LISTED.split('.')))}.{BLOCKLIST}"
    host.run(
        "dnsmasq --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces --pid-file=/srv/dnsmasq.pid"
        f" --user=root --local=/#/ --address=/{listed}/127.0.0.2"
    )
    for name in ("milter", "auth"):
        host.run(f"nohup '{sys.executable}' /srv/{name}.py >/srv/{name}.log 2>&1 &")
    host.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1000 -subj /CN=backup.example.net"
        " -keyout /etc/postfix/key.pem -out /etc/postfix/cert.pem 2>/dev/null"
    )


def test_beside_everything_else(mx: _Mx) -> None:
    """The rejects of a blocklist, a policy service and a milter stay 5xx for known recipients, also with TLS."""
    mx.host.put_master_cf()
    mx.host.run(f"cat >>/etc/postfix/master.cf <<'END'{_MASTER.format(python=sys.executable)}END")
    mx.host.run("mkdir -p /var/spool/postfix/private")
    _serve(mx)
    mx.start(
        smtpd_relay_restrictions="permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
        smtpd_sender_restrictions=f"reject_non_fqdn_sender, {_FORM_C}",
        smtpd_recipient_restrictions=f"reject_rbl_client {BLOCKLIST}, check_policy_service unix:private/policy",
        smtpd_milters="inet:127.0.0.1:8891",
        milter_default_action="tempfail",
        smtpd_sasl_auth_enable="yes",
        smtpd_sasl_type="dovecot",
        smtpd_sasl_path="private/auth",
        smtpd_tls_cert_file="/etc/postfix/cert.pem",
        smtpd_tls_key_file="/etc/postfix/key.pem",
        smtpd_tls_security_level="may",
    )
    assert wait_until(lambda: bool(mx.host.run(_READY)))
    clean = [KNOWN, DEFERRED, KNOWN, UNKNOWN, 554]
    assert mx.codes() == clean
    assert mx.codes(way="tls") == clean
    assert mx.codes(way="sasl") == [*clean[:4], KNOWN], "who has logged in may send anywhere"
    assert mx.codes(source=LISTED) == [554, DEFERRED, 554, UNKNOWN, 554]
    assert mx.codes(sender="policy@bad.example") == [554, DEFERRED, 554, UNKNOWN, 554]
    rejected = mx.codes(sender="milter@bad.example")
    assert [rejected[0], rejected[2]] == [550, 550]
    assert rejected[1] in {DEFERRED, 550}
    mx.set(
        postscreen_greet_wait="1s",
        postscreen_dnsbl_sites=BLOCKLIST,
        postscreen_dnsbl_action="enforce",
        postscreen_access_list="",
    )
    mx.host.run(_POSTSCREEN)
    assert mx.codes() == clean
    assert mx.codes(source=LISTED) == [550] * 5, "postscreen itself refuses"
