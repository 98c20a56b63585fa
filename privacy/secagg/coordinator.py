"""The coordinator's side of a secure sum: one class a stage, driven by whatever carries the messages.

A stage's `step(replies)` takes (name, bytes) pairs, one site after the other, so that masked updates can be summed as
they arrive and none is kept: memory does not grow with the number of sites. A reply that is late, missing, malformed
or not the site's own drops that site, with the reason in `refused`. When too few are left, `RoundError` is raised:
the round is void, nothing opens, and the next one starts afresh with `Advertising`.

    Advertising -> KeySigning -> Sharing -> Masking -> Consistency -> Unmasking -> Opened

Threat model, sources and what is not covered: see `site.py`. This side protects itself from forged and malformed
messages, and notices wrongly rebuilt secrets (a seed against its commitment, a mask key against its public key); it
cannot know whether a site masked the update it should have.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from yoriai.errors import IdentityError, ProtocolError, RoundError
from yoriai.privacy.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, choosers, short_of_holders
from yoriai.privacy.secagg.keyset import (
    KeySet,
    RoundTerms,
    crowded,
    survivor_digest,
    verify_advertisement,
    verify_choice,
    verify_key_set,
)
from yoriai.privacy.secagg.masking import RunningSum
from yoriai.privacy.secagg.masks import agree
from yoriai.privacy.secagg.messages import Buffer, Kind, RelayedShares, ReleasedShares, SealedShares
from yoriai.privacy.secagg.messages import ShareKind as Share
from yoriai.privacy.secagg.opening import Opened, left_over_masks
from yoriai.privacy.secagg.ranks import thin_among
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import coordinate

Replies = Iterable[tuple[str, Buffer]]
"""Answers to one stage, by site name; may be a generator that yields them as they arrive."""

Payloads = Mapping[str, bytes]
"""What to send next, by site name: exactly the sites that are still in the round."""

Content = TypeVar("Content")


class _Stage:
    """One stage of one round at the coordinator."""

    def __init__(self, directory: Directory, refused: dict[str, str]) -> None:
        self._directory = directory
        self.refused = refused

    def _collect(
        self, replies: Replies, expected: frozenset[int], read: Callable[[Buffer], Content]
    ) -> dict[int, Content]:
        """Read every reply; who is not expected, answers twice, for another, or wrongly, is refused with the reason."""
        answers: dict[int, Content] = {}
        for name, data in replies:
            try:
                position = self._directory.roster.position(name)
                if position not in expected or position in answers:
                    raise ProtocolError("a reply that was not asked for", found=f"from {name}")
                if wire.sender_of(data) != position:
                    raise ProtocolError("a reply in another site's name", found=f"from {name}")
                answers[position] = read(data)
            except (ProtocolError, IdentityError) as error:
                self.refused.setdefault(name, str(error))
        return dict(sorted(answers.items()))

    def _need_members(self, what: str, members: Collection[int], terms: RoundTerms, quorum: int = 0) -> None:
        """Enough sites in all, and of every rank that one of them has; the sites check the same."""
        _need(what, len(members), max(terms.least_survivors, quorum))
        full = terms.full_rank
        if full is not None and (thin := thin_among(self._directory, members, full, terms.least_survivors)):
            sharing = sum(self._directory.rank(site, full) == thin[0] for site in members)
            _need(f"{what} of rank {thin[0]}", sharing, terms.least_survivors)

    def _names(self, positions: Iterable[int]) -> list[str]:
        return [self._directory.name(position) for position in positions]


def _need(what: str, found: int, least: int) -> None:
    if found < least:
        raise RoundError(f"too few {what}", found=str(found), expected=f"at least {least}", remedy="the round is void")


class Advertising(_Stage):
    """Sites are asked to advertise their keys."""

    def __init__(self, directory: Directory, terms: RoundTerms, *, threads: int = 0) -> None:
        super().__init__(directory, {})
        self._terms, self._threads = terms, threads

    def step(self, replies: Replies) -> tuple["KeySigning", Payloads]:
        """Check the advertisements and publish the key set.

        Raises:
            RoundError: with fewer sites than the job is calibrated to.
        """
        directory, terms = self._directory, self._terms
        public: set[bytes] = set()
        probe = X25519PrivateKey.generate()

        def read(data: Buffer) -> bytes:
            _, advertised = verify_advertisement(terms, directory, data)
            fresh = {advertised.encryption_key, advertised.mask_key}
            if len(fresh) < 2 or fresh & public:
                raise ProtocolError("a public key that stands elsewhere")
            for key in fresh:
                # A key of small order would make every honest neighbour give up; it is kept out here.
                agree(probe, key)
            public.update(fresh)
            return bytes(data)

        answers = self._without_thin_ranks(self._collect(replies, frozenset(range(len(directory.roster.sites))), read))
        self._need_members("sites with keys", answers, terms)
        keys = verify_key_set(terms, directory, answers.values())
        body = wire.frame(Kind.KEY_SET, terms.binding, wire.encode_list(answers.values()))
        return KeySigning(directory, self.refused, keys, self._threads), dict.fromkeys(self._names(answers), body)

    def _without_thin_ranks(self, answers: dict[int, bytes]) -> dict[int, bytes]:
        """Leave out sites whose rank too few share: the others may go on. That never makes another rank thin."""
        directory, terms = self._directory, self._terms
        thin = set(thin_among(directory, answers, terms.full_rank, terms.least_survivors))
        left_out = [p for p in answers if thin and directory.rank(p, terms.full_rank or 0) in thin]
        for position in left_out:
            self.refused.setdefault(directory.name(position), "too few sites of its rank are in this round")
        return {position: data for position, data in answers.items() if position not in left_out}


class _Keyed(_Stage):
    """A stage after the key set is fixed."""

    def __init__(self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int) -> None:
        super().__init__(directory, refused)
        self._keys, self._threads = keys, threads

    def _check_holders(self, members: Iterable[int], graph: Graph) -> None:
        short = short_of_holders(members, graph, self._keys.plan.threshold)
        if short:
            names = ", ".join(self._names(short[:5]))
            raise RoundError("sites with too few holders of their shares left", found=names, remedy="the round is void")


class KeySigning(_Keyed):
    """Sites are asked to sign the key set and to draw their holders."""

    def step(self, replies: Replies) -> tuple["Sharing", Payloads]:
        """Publish every signed choice to everybody who signed."""
        keys = self._keys

        def read(data: Buffer) -> tuple[frozenset[int], bytes]:
            _, drawn = verify_choice(keys, data)
            return drawn, bytes(data)

        answers = self._collect(replies, frozenset(keys.ids), read)
        self._need_members("sites that signed the key set", answers, keys.terms, keys.quorum)
        graph = {position: drawn for position, (drawn, _) in answers.items()}
        if any(crowded(keys, graph, site) for site in graph):
            raise RoundError("a site was chosen by more than chance explains", remedy="the round is void")
        self._check_holders(graph, graph)
        body = wire.frame(Kind.HOLDER_CHOICES, keys.binding, wire.encode_list(data for _, data in answers.values()))
        stage = Sharing(self._directory, self.refused, keys, self._threads, graph=graph)
        return stage, dict.fromkeys(self._names(graph), body)


class Sharing(_Keyed):
    """Sites are asked for encrypted shares."""

    def __init__(
        self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int, *, graph: Graph
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._graph = graph

    def step(self, replies: Replies) -> tuple["Masking", Payloads]:
        """Relay to each site the ciphertexts that are for it."""
        keys, graph = self._keys, self._graph

        def read(data: Buffer) -> SealedShares:
            sender, body = keys.open_sealed(data, Kind.SEALED_SHARES)
            shares = SealedShares.decode(body)
            if set(shares.sealed) != graph[sender] & graph.keys():
                raise ProtocolError("sealed shares", expected="one for each holder that signed the key set")
            return shares

        sharers = self._collect(replies, frozenset(graph), read)
        self._need_members("sites that have shared", sharers, keys.terms, keys.quorum)
        self._check_holders(sharers, graph)
        payloads = {}
        for position in sharers:
            sealed = {owner: sharers[owner].sealed[position] for owner in choosers(position, graph) & sharers.keys()}
            body = RelayedShares(tuple(sharers), sealed).encode()
            payloads[self._directory.name(position)] = wire.frame(Kind.RELAYED_SHARES, keys.binding, body)
        commitments = {position: shares.commitment for position, shares in sharers.items()}
        stage = Masking(self._directory, self.refused, keys, self._threads, graph=graph, commitments=commitments)
        return stage, payloads


class Masking(_Keyed):
    """Sites train, then send their masked updates."""

    def __init__(
        self,
        directory: Directory,
        refused: dict[str, str],
        keys: KeySet,
        threads: int,
        *,
        graph: Graph,
        commitments: Mapping[int, bytes],
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._graph, self._commitments = graph, commitments

    def step(self, replies: Replies) -> tuple["Consistency", Payloads]:
        """Sum the masked updates as they come, and publish whose arrived."""
        keys, total = self._keys, RunningSum(self._keys, self._threads)

        def read(data: Buffer) -> None:
            _, body = keys.open_sealed(data, Kind.MASKED_UPDATE)
            if len(body) != total.body_bytes:
                raise ProtocolError("masked update", found=f"{len(body)} bytes", expected=str(total.body_bytes))
            total.add(body)

        survivors = self._collect(replies, frozenset(self._commitments), read)
        self._need_members("survivors", survivors, keys.terms, keys.quorum)
        self._check_holders(survivors, self._graph)
        body = wire.frame(Kind.SURVIVORS, keys.binding, wire.encode_sites(survivors))
        work = _Open(self._graph, self._commitments, frozenset(survivors), total)
        stage = Consistency(self._directory, self.refused, keys, self._threads, work=work)
        return stage, dict.fromkeys(self._names(survivors), body)


@dataclass(frozen=True, repr=False)
class _Open:
    """What is needed to open the sum: graph, seed commitments, survivors, masked total."""

    graph: Graph
    commitments: Mapping[int, bytes]
    survivors: frozenset[int]
    total: RunningSum


class _Closing(_Keyed):
    """A stage after the survivors are fixed."""

    def __init__(
        self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int, *, work: _Open
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._work = work


class Consistency(_Closing):
    """Survivors are asked to sign the survivor set."""

    def step(self, replies: Replies) -> tuple["Unmasking", Payloads]:
        """Show a quorum of the signatures to everybody who signed."""
        keys, digest = self._keys, survivor_digest(self._work.survivors)

        def read(data: Buffer) -> bytes:
            _, body = keys.open_sealed(data, Kind.CONSISTENCY)
            if bytes(body) != digest:
                raise ProtocolError("a signature over another survivor set")
            return bytes(data)

        signed = self._collect(replies, self._work.survivors, read)
        _need("consistency signatures", len(signed), keys.quorum)
        body = wire.frame(Kind.UNMASK_REQUEST, keys.binding, wire.encode_list(list(signed.values())[: keys.quorum]))
        stage = Unmasking(self._directory, self.refused, keys, self._threads, work=self._work)
        return stage, dict.fromkeys(self._names(signed), body)


class Unmasking(_Closing):
    """Holders are asked for shares."""

    def step(self, replies: Replies) -> Opened:
        """Rebuild the secrets that are still in the sum, take their masks off, and open it.

        Raises:
            RoundError: with too few shares of a secret, or if one is rebuilt wrongly. Nothing opens then.
        """
        keys, work = self._keys, self._work
        held: dict[int, dict[int, SecretBytes]] = {}
        for holder, shares in self._collect(replies, work.survivors, self._read).items():
            for owner, (_, share) in shares.items():
                held.setdefault(owner, {})[coordinate(holder)] = share
        work.total.remove(left_over_masks(keys, work.graph, work.commitments, work.survivors, held))
        clipped, *counts = (int(count) for count in work.total.tail)
        return Opened(
            levels=work.total.words,
            total_weight=sum(self._directory.weight(site) for site in work.survivors),
            survivors=tuple(self._names(sorted(work.survivors))),
            clipped=clipped,
            counts=tuple(counts),
            grid=keys.terms.grid,
        )

    def _read(self, data: Buffer) -> dict[int, tuple[Share, SecretBytes]]:
        """Released shares; each must be one the sender holds, and of the kind that its owner's fate asks for."""
        sender, body = self._keys.open_sealed(data, Kind.RELEASED_SHARES)
        shares = ReleasedShares.decode(body).shares
        for owner, (kind, _) in shares.items():
            due = Share.SEED if owner in self._work.survivors else Share.MASK_KEY
            if kind != due or owner not in self._work.commitments or sender not in self._work.graph[owner]:
                raise ProtocolError("a released share that was not asked for")
        return shares
