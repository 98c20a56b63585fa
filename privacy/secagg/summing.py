"""The coordinator's side of one slot of a window: masked updates summed, survivors agreed on, the sum opened.

    SumWindow.begin(terms) -> Masking -> Consistency -> Unmasking -> Opened

Threat model: see `site.py`. When too few sites are left, `RoundError` is raised: nothing opens, the slot is used up,
and the round may be begun again in the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from yoriai.errors import ProtocolError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph
from yoriai.privacy.secagg.keyset import KeySet, SlotKeys, SlotTerms, survivor_digest
from yoriai.privacy.secagg.masking import RunningSum
from yoriai.privacy.secagg.messages import Buffer, MessageKind, ReleasedShares
from yoriai.privacy.secagg.messages import ShareKind as Share
from yoriai.privacy.secagg.opening import Opened, left_over_masks
from yoriai.privacy.secagg.replies import Keyed, Payloads, Replies, need
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import coordinate

Commitments = tuple[bytes, ...]
"""What a site has committed to as its self-mask seeds, one a slot."""


class SumWindow:
    """A window at the coordinator: everything of it that is public.

    Attributes:
        members: names of the sites that hold their shares.
        keys: the verified key set.
    """

    def __init__(
        self,
        directory: Directory,
        keys: KeySet,
        threads: int,
        *,
        graph: Graph,
        commitments: Mapping[int, Commitments],
        members: tuple[str, ...],
    ) -> None:
        self.members, self.keys = members, keys
        self._directory, self._threads, self._graph, self._commitments = directory, threads, graph, commitments

    def begin(self, terms: SlotTerms) -> "Masking":
        """Ask for masked updates in one slot; the sites refuse one that was used.

        Raises:
            ProtocolError: if the window has no such slot, or the members' weights do not go with the grid.
        """
        keys = self.keys.slot(terms)
        commitments = {site: of_slots[terms.slot] for site, of_slots in self._commitments.items()}
        slot = _Slot(keys, self._graph, commitments)
        return Masking(self._directory, {}, self.keys, self._threads, slot=slot)


@dataclass(frozen=True, repr=False)
class _Slot:
    """One slot: its keys, the graph, and what every site that shared has committed to as its seed."""

    keys: SlotKeys
    graph: Graph
    commitments: Mapping[int, bytes]


class Masking(Keyed):
    """Sites train, then send their masked updates."""

    def __init__(
        self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int, *, slot: _Slot
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._slot = slot

    def step(self, replies: Replies) -> tuple["Consistency", Payloads]:
        """Sum the masked updates as they come, and publish whose arrived."""
        slot, window = self._slot, self._keys
        total = RunningSum(slot.keys, self._threads)

        def read(data: Buffer) -> None:
            _, body = slot.keys.open_sealed(data, MessageKind.MASKED_UPDATE)
            if len(body) != total.body_bytes:
                raise ProtocolError("masked update", found=f"{len(body)} bytes", expected=str(total.body_bytes))
            total.add(body)

        survivors = self._collect(replies, frozenset(slot.commitments), read)
        self._need_members("survivors", survivors, window.terms, window.quorum)
        self._check_holders(survivors, slot.graph)
        body = wire.frame(MessageKind.SURVIVORS, slot.keys.binding, wire.encode_sites(survivors))
        work = _Open(slot, frozenset(survivors), total)
        stage = Consistency(self._directory, self.refused, window, self._threads, work=work)
        return stage, dict.fromkeys(self._names(survivors), body)


@dataclass(frozen=True, repr=False)
class _Open:
    """What is needed to open the sum: the slot, the survivors, the masked total."""

    slot: _Slot
    survivors: frozenset[int]
    total: RunningSum


class _Closing(Keyed):
    """A stage after the survivors are fixed."""

    def __init__(
        self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int, *, work: _Open
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._work, self._slot = work, work.slot.keys


class Consistency(_Closing):
    """Survivors are asked to sign the survivor set."""

    def step(self, replies: Replies) -> tuple["Unmasking", Payloads]:
        """Show a quorum of the signatures to everybody who signed."""
        quorum, digest = self._keys.quorum, survivor_digest(self._work.survivors)

        def read(data: Buffer) -> bytes:
            _, body = self._slot.open_sealed(data, MessageKind.CONSISTENCY)
            if bytes(body) != digest:
                raise ProtocolError("a signature over another survivor set")
            return bytes(data)

        signed = self._collect(replies, self._work.survivors, read)
        need("consistency signatures", len(signed), quorum)
        shown = wire.encode_list(list(signed.values())[:quorum])
        body = wire.frame(MessageKind.UNMASK_REQUEST, self._slot.binding, shown)
        stage = Unmasking(self._directory, self.refused, self._keys, self._threads, work=self._work)
        return stage, dict.fromkeys(self._names(signed), body)


class Unmasking(_Closing):
    """Holders are asked for shares."""

    def step(self, replies: Replies) -> Opened:
        """Rebuild the secrets that are still in the sum, take their masks off, and open it.

        Raises:
            RoundError: with too few shares of a secret, or if one is rebuilt wrongly. Nothing opens then.
        """
        work, slot = self._work, self._work.slot
        held: dict[int, dict[int, SecretBytes]] = {}
        for holder, shares in self._collect(replies, work.survivors, self._read).items():
            for owner, (_, share) in shares.items():
                held.setdefault(owner, {})[coordinate(holder)] = share
        work.total.remove(left_over_masks(slot.keys, slot.graph, slot.commitments, work.survivors, held))
        clipped, *counts = (int(count) for count in work.total.tail)
        return Opened(
            levels=work.total.words,
            total_weight=sum(self._directory.weight(site) for site in work.survivors),
            survivors=tuple(self._names(sorted(work.survivors))),
            clipped=clipped,
            counts=tuple(counts),
            grid=slot.keys.terms.grid,
        )

    def _read(self, data: Buffer) -> dict[int, tuple[Share, SecretBytes]]:
        """Released shares; each must be one the sender holds, and of the kind that its owner's fate asks for."""
        work = self._work
        sender, body = self._slot.open_sealed(data, MessageKind.RELEASED_SHARES)
        shares = ReleasedShares.decode(body).shares
        for owner, (kind, _) in shares.items():
            due = Share.SEED if owner in work.survivors else Share.MASK_KEY
            if kind != due or owner not in work.slot.commitments or sender not in work.slot.graph[owner]:
                raise ProtocolError("a released share that was not asked for")
        return shares
