"""The rejected entries that have an address: where each is, why it is rejected, and what became of it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.errors import printable
from syncagent.invisible import trimmed
from syncagent.model import Reject
from syncagent.state import rejects
from syncagent.state.fields import MAX_FIELD, MAX_REJECT, escape, unescape
from syncagent.state.snapshot import refused_by, rejects_of
from syncagent.values.patterns import matches
from syncagent.values.spellings import addresses_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from syncagent.config.tables import Config
    from syncagent.state.database import Ledger


_SHOWN = 60


@dataclass(frozen=True)
class RejectedEntries:
    """The rejected entries of the sources' last answers, and what is on record of them.

    ``held`` are the IDs under which they are held, ``approved`` are those that a person approved; both by digest.
    """

    config: Config
    snapshots: Mapping[str, Path]
    held: Mapping[str, str]
    approved: Collection[str]

    @classmethod
    def read(cls, config: Config, ledger: Ledger, snapshots: Mapping[str, Path]) -> Self:
        """Return those in ``snapshots``, with what the ledger has on record of them."""
        ids = [hold.id for hold in ledger.holds.values() if hold.rejecting]
        held = {digest: hold_id for hold_id in ids for digest in ledger.held_rejects(hold_id)}
        approved = frozenset[str]().union(*map(ledger.approved_rejects, snapshots))
        return cls(config, snapshots, held, approved)

    def sentences(self, spelled: str, address: str) -> Iterator[str]:
        """Yield a sentence for each rejected entry of a source that is this spelling, or has the address as a word.

        Raises OSError if a snapshot cannot be read.
        """
        starts = (spelled, trimmed(spelled))  # of a long spelling a snapshot stores only the start
        limits = (MAX_FIELD, MAX_REJECT)
        spellings = {unescape(escape(start, limit)).strip().lower() for start in starts for limit in limits} | {address}
        for name, path in self.snapshots.items():
            source = self.config.sources.get(name)
            domains = rejects.local_domains(source)
            for reject in rejects_of(path, name):
                text = rejects.text_of(reject)
                if text.lower() in spellings - {""} or (address and _names(text, address, domains)):
                    place = rejects.placed(reject, rejects.origin(source)).place
                    yield f"{place} has it, rejected because it {reject.reason}{self._fate(reject, text)}"

    def _fate(self, reject: Reject, text: str) -> str:
        """Return what became of a rejected entry, behind a semicolon; "" while no map is published."""
        source = self.config.sources.get(reject.source)
        if source and matches(text, source.common.ignore):
            return f"; left out by the key ignore of [sources.{reject.source}]"
        if reject.digest in self.approved:
            return "; approved by a person"
        hold_id = self.held.get(reject.digest)
        return f"; held under {hold_id}" if hold_id else ""


def refused_sentences(config: Config, snapshots: Mapping[str, Path], address: str) -> Iterator[str]:
    """Yield a sentence for each source that refuses this address, or every address of its domain, by a right side.

    Raises OSError if a snapshot cannot be read.
    """
    addresses = {address, f"@{address.rpartition('@')[2]}"}
    for name, path in snapshots.items():
        for key in refused_by(path, name):
            if key.address in addresses:
                entry = Reject(key.address, "", name, escape(key.key))
                place = rejects.placed(entry, rejects.origin(config.sources.get(name))).place
                yield f'{place} refuses {key.address} by "{printable(key.value, _SHOWN)}": it is no recipient of {name}'


def _names(text: str, address: str, domains: tuple[str, ...]) -> bool:
    """True if a text has the address as a word. Most texts do not have its local part."""
    local = address.rpartition("@")[0].strip('"')
    return local in unicodedata.normalize("NFC", text).casefold() and address in addresses_in(text, domains)
