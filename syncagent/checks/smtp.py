"""The check of the running smtpd: its replies to RCPT TO (RFC 5321). RSET follows each; no mail is sent."""

from __future__ import annotations

import contextlib
import smtplib
from typing import TYPE_CHECKING, Self

from syncagent import addresses as normalise
from syncagent.checks import doubt, remedies
from syncagent.checks.context import DEFAULT_RESTRICTIONS, server_name
from syncagent.checks.finding import Check, Person, Shell, error, ok, skipped, warning
from syncagent.errors import SyncagentError
from syncagent.postfix import mynetworks
from syncagent.postfix.live import unused_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step

DEFAULT = ("127.0.0.1", 25)
_SECONDS = 30.0
_PER_SESSION = 8
"""Recipients per session: fewer than smtpd_soft_error_limit, above which smtpd delays its replies."""
_DOMAINS = 25
_PERMANENT = 500
_TAKEN = 250
_STALE = ("user unknown", "relay access denied")
"""Phrases of replies for an unknown recipient or domain; smtpd may have read an older main.cf or map."""
_STAYS = (*_STALE, "lookup", "configuration error")
"""Phrases of replies for failures that do not pass by themselves, even if the code is temporary."""


class NoDialogueError(SyncagentError):
    """The SMTP session could not be opened, or its connection failed."""


class Dialogue:
    """An SMTP session that tests whether recipients are accepted; it is reopened after 8 recipients.

    ``from_address`` is the local address of the connection.
    """

    def __init__(self, server: tuple[str, int], name: str) -> None:
        """Set the server as (host, port) and the name for EHLO. Nothing is opened yet."""
        self._server, self._name, self._asked = server, name, 0
        self._session: smtplib.SMTP | None = None
        self.from_address = ""

    def __enter__(self) -> Self:
        """Open the session. Raises NoDialogueError if that fails."""
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session; errors are ignored."""
        self._close()

    def _open(self) -> None:
        try:
            self._session = smtplib.SMTP(*self._server, local_hostname=self._name, timeout=_SECONDS)
            self._session.ehlo_or_helo_if_needed()
            if self._session.sock:
                self.from_address = self._session.sock.getsockname()[0]
        except (OSError, smtplib.SMTPException) as failure:
            raise NoDialogueError(str(failure)) from failure

    def _close(self) -> None:
        if self._session:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                self._session.quit()
        self._session, self._asked = None, 0

    def verdict(self, address: str) -> tuple[int, str]:
        """Return the code and text of the reply to RCPT TO, or to MAIL FROM if that is rejected.

        Raises NoDialogueError if the session cannot be opened or fails.
        """
        if self._asked >= _PER_SESSION:
            self._close()
        if self._session is None:
            self._open()
        assert self._session is not None  # noqa: S101 - it was opened
        self._asked += 1
        try:
            code, said = self._session.docmd("MAIL FROM:<>")
            if code == _TAKEN:
                code, said = self._session.docmd(f"RCPT TO:<{address}>")
            self._session.rset()
        except (OSError, smtplib.SMTPException) as failure:
            self._close()
            raise NoDialogueError(str(failure)) from failure
        return code, said.decode(errors="backslashreplace").replace("\n", " ")


def verdicts(context: Context) -> Iterator[Finding]:
    """Compare smtpd's replies with the map for at most 25 relay domains, and check that it relays no other domain.

    If main.cf asks a doubt table, its probe must get 450, and so must unknown recipients of a domain in doubt.
    """
    server = context.options.smtp or DEFAULT
    spelled = server_name(server)
    try:
        with Dialogue(server, context.live.values.get("myhostname", "localhost")) as dialogue:
            domains = sorted(context.scope)
            for at, domain in enumerate(domains[:_DOMAINS]):
                context.options.report("SMTP", at)
                yield from _known(context, dialogue, domain)
                yield from _unknown(context, dialogue, domain)
            if domains[_DOMAINS:]:
                yield skipped(spelled, f"{len(domains) - _DOMAINS:,} more domains are not asked about")
            yield from _probe(context, dialogue)
            yield from _foreign(context, dialogue)
    except NoDialogueError as failure:
        text = f"no dialogue with it: {failure}"
        start = [Shell(command=context.command("postfix", "start"))] if context.live.values else []
        yield (error if context.options.smtp else warning)(spelled, text, *start)


def _known(context: Context, dialogue: Dialogue, domain: str) -> Iterator[Finding]:
    """Yield a finding for each rejected recipient, of at most 3 published ones of a domain; "ok" if any is accepted.

    Raises NoDialogueError if the session fails.
    """
    examples = [
        address
        for name, addresses in context.published.examples.items()
        for address in addresses
        if name.isascii() and normalise.within(normalise.domain_or_same(name), context.scope) == domain
    ]
    taken = 0
    for address in examples[:3]:
        code, said = dialogue.verdict(address)
        taken += code == _TAKEN
        if code != _TAKEN:
            say = warning if _passes(code, said) or _is_about_us(said) else error
            yield say(address, f"the map has it, and smtpd answers {code} {said}", *_remedy(context, code, said))
    if taken:
        yield ok(domain, f"{taken} known recipients are taken")


def _unknown(context: Context, dialogue: Dialogue, domain: str) -> Iterator[Finding]:
    """Yield a finding for the reply to an unknown recipient of the domain.

    Raises NoDialogueError if the session fails.
    """
    expected = int(context.live.values.get("unknown_relay_recipient_reject_code", "550"))
    if context.live.values.get("soft_bounce") == "yes" and expected >= _PERMANENT:
        expected -= 100
    in_doubt = doubt.live_reason(context, domain)
    code, said = dialogue.verdict(unused_address(domain))
    if in_doubt and str(code) == doubt.code(context):
        yield ok(domain, f"an unknown recipient gets {code}, since the domain is in doubt: {in_doubt}")
    elif in_doubt and code >= _PERMANENT:
        yield from _hard(context, dialogue, domain, f"an unknown recipient gets {code}, and the domain is in doubt")
    elif code == expected:
        yield ok(domain, f"an unknown recipient gets {code}")
    elif code == _TAKEN and f"@{domain}" in map(str.casefold, context.published.catch_alls):
        yield ok(domain, "an unknown recipient is taken, since the map has a catch-all")
    elif code == _TAKEN:
        text = "an unknown recipient is taken: mail to it bounces later (backscatter); is what is above in force?"
        yield error(domain, text, context.reload)
    else:
        yield warning(domain, f"an unknown recipient gets {code} {said}, not {expected}", *_remedy(context, code, said))


def _probe(context: Context, dialogue: Dialogue) -> Iterator[Finding]:
    """Yield a finding for the reply to the probe of the doubt table: smtpd must find it there, and answer 450.

    Raises NoDialogueError if the session fails.
    """
    address = doubt.probe(context)
    if not address:
        return
    subject = str(context.config.postfix.doubt_map)
    code, said = dialogue.verdict(address)
    if str(code) == doubt.code(context) and said.rstrip().endswith(doubt.PROBED):
        yield ok(subject, f"smtpd asks it: its probe {address} gets {code}")
    elif code < _PERMANENT and "lookup" not in said and any(word in said.lower() for word in _STALE):
        yield skipped(subject, f"its probe {address} gets {code} {said}, as every unknown recipient")
    else:
        yield from _hard(context, dialogue, subject, f"its probe {address} gets {code} {said}, not 450")


def _hard(context: Context, dialogue: Dialogue, subject: str, text: str) -> Iterator[Finding]:
    """Yield an error for a reply that is not that of doubt; "skipped" if smtpd permits this client before."""
    if doubt.permits_own_networks(context) and mynetworks.has(context.live, dialogue.from_address):
        why = f"asked from {dialogue.from_address}, which permit_mynetworks permits before the doubt table is asked"
        yield skipped(subject, f"{text}; {why}")
    else:
        yield error(subject, f"{text}; is what is above in force?", context.sync, context.reload)


def _remedy(context: Context, code: int, said: str) -> tuple[Step, ...]:
    """Return the remedies for an unexpected reply: sync and reload, reload, or an instruction.

    A reload helps only if smtpd has read an older main.cf or map.
    """
    if "lookup" in said.lower():
        return context.sync, context.reload
    if any(word in said.lower() for word in _STALE):
        return (context.reload,)
    return (Person(text="try again later" if _passes(code, said) else "see the mail log"),)


def _passes(code: int, said: str) -> bool:
    """True if the reply is temporary, as with greylisting or a busy server."""
    return code < _PERMANENT and not any(word in said.lower() for word in _STAYS)


def _is_about_us(said: str) -> bool:
    """True if smtpd rejects the client, its HELO or its sender, whatever the recipient."""
    return any(word in said.lower() for word in ("helo command", "client host", "sender address"))


def _foreign(context: Context, dialogue: Dialogue) -> Iterator[Finding]:
    """Yield a finding for the reply to a recipient in a domain that this host must not relay to.

    Raises NoDialogueError if the session fails.
    """
    code, said = dialogue.verdict("nobody@syncagent-check.invalid")
    if code != _TAKEN:
        yield ok("a foreign domain", f"it is refused: {code} {said}")
    elif everybody := mynetworks.entry_for_everybody(context.live):
        text = f"it is taken, since mynetworks trusts everybody by {everybody}: this host relays for everybody"
        yield error("a foreign domain", text, remedies.networks(context, everybody))
    elif mynetworks.has(context.live, dialogue.from_address):
        text = f"asked from {dialogue.from_address}, which mynetworks permits to relay: nothing is learned from that"
        yield skipped("a foreign domain", text)
    else:
        text = f"it is taken from {dialogue.from_address}: this host relays for everybody"
        remedy = context.postconf("smtpd_relay_restrictions", DEFAULT_RESTRICTIONS)
        yield error("a foreign domain", text, remedy)


CHECKS = (Check("verdicts", "Known recipients are taken by the smtpd of this host, and no others", verdicts),)
