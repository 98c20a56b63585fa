"""The coordinator's side of opening a window: one class a stage, driven by whatever carries the messages.

A stage's `step(replies)` takes (name, bytes) pairs, one site after the other, so that masked updates can be summed as
they arrive and none is kept: memory does not grow with the number of sites. A reply that is late, missing, malformed
or not the site's own drops that site, with the reason in `refused`. When too few are left, `RoundError` is raised:
the window is void, nothing opens, and the next one starts afresh with `Advertising`.

    Advertising -> KeySigning -> Sharing -> Holding -> SumWindow; in every slot of it the stages of `summing.py`

Threat model, sources and what is not covered: see `site.py`. This side protects itself from forged and malformed
messages, and notices wrongly rebuilt secrets (a seed against its commitment, a mask key against its public key); it
cannot know whether a site masked the update it should have.
"""

from collections.abc import Mapping

from yoriai.errors import ProtocolError, RoundError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, choosers
from yoriai.privacy.secagg.keyset import (
    KeySet,
    WindowTerms,
    crowded,
    verify_advertisement,
    verify_choice,
    verify_key_set,
)
from yoriai.privacy.secagg.messages import Buffer, MessageKind, RelayedShares, SealedShares
from yoriai.privacy.secagg.ranks import thin_among
from yoriai.privacy.secagg.replies import Keyed, Payloads, Replies, SumStage
from yoriai.privacy.secagg.summing import Commitments, SumWindow


class Advertising(SumStage):
    """Sites are asked to advertise their keys."""

    def __init__(self, directory: Directory, terms: WindowTerms, *, threads: int = 0) -> None:
        super().__init__(directory, {})
        self._terms, self._threads = terms, threads

    def step(self, replies: Replies) -> tuple["KeySigning", Payloads]:
        """Check the advertisements and publish the key set.

        Raises:
            RoundError: with fewer sites than the job is calibrated to.
        """
        directory, terms = self._directory, self._terms
        public: set[bytes] = set()

        def read(data: Buffer) -> bytes:
            _, advertised = verify_advertisement(terms, directory, data)
            fresh = {advertised.encryption_key, *advertised.mask_keys}
            if len(fresh) < 1 + terms.slots or fresh & public:
                raise ProtocolError("a public key that stands elsewhere")
            public.update(fresh)
            return bytes(data)

        answers = self._without_thin_ranks(self._collect(replies, frozenset(range(len(directory.roster.sites))), read))
        self._need_members("sites with keys", answers, terms)
        keys = verify_key_set(terms, directory, answers.values())
        body = wire.frame(MessageKind.KEY_SET, terms.binding, wire.encode_list(answers.values()))
        return KeySigning(directory, self.refused, keys, self._threads), dict.fromkeys(self._names(answers), body)

    def _without_thin_ranks(self, answers: dict[int, bytes]) -> dict[int, bytes]:
        """Leave out sites whose rank too few share: the others may go on. That never makes another rank thin."""
        directory, terms = self._directory, self._terms
        thin = set(thin_among(directory, answers, terms.full_rank, terms.least_survivors))
        left_out = [p for p in answers if thin and directory.rank(p, terms.full_rank or 0) in thin]
        for position in left_out:
            self.refused.setdefault(directory.name(position), "too few sites of its rank are in this window")
        return {position: data for position, data in answers.items() if position not in left_out}


class KeySigning(Keyed):
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
            raise RoundError("a site was chosen by more than chance explains", remedy="the window is void")
        self._check_holders(graph, graph)
        body = wire.frame(
            MessageKind.HOLDER_CHOICES, keys.binding, wire.encode_list(data for _, data in answers.values())
        )
        stage = Sharing(self._directory, self.refused, keys, self._threads, graph=graph)
        return stage, dict.fromkeys(self._names(graph), body)


class Sharing(Keyed):
    """Sites are asked for encrypted shares."""

    def __init__(
        self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int, *, graph: Graph
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._graph = graph

    def step(self, replies: Replies) -> tuple["Holding", Payloads]:
        """Relay to each site the ciphertexts that are for it."""
        keys, graph = self._keys, self._graph

        def read(data: Buffer) -> SealedShares:
            sender, body = keys.open_sealed(data, MessageKind.SEALED_SHARES)
            shares = SealedShares.decode(body, keys.terms.slots)
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
            payloads[self._directory.name(position)] = wire.frame(MessageKind.RELAYED_SHARES, keys.binding, body)
        commitments = {position: shares.commitments for position, shares in sharers.items()}
        stage = Holding(self._directory, self.refused, keys, self._threads, graph=graph, commitments=commitments)
        return stage, payloads


class Holding(Keyed):
    """Sites are asked whether they hold their shares."""

    def __init__(
        self,
        directory: Directory,
        refused: dict[str, str],
        keys: KeySet,
        threads: int,
        *,
        graph: Graph,
        commitments: Mapping[int, Commitments],
    ) -> None:
        super().__init__(directory, refused, keys, threads)
        self._graph, self._commitments = graph, commitments

    def step(self, replies: Replies) -> SumWindow:
        """The window, for the sites that hold their shares; one whose answer was lost may send masked updates too."""
        keys = self._keys

        def read(data: Buffer) -> None:
            _, body = keys.open_sealed(data, MessageKind.HOLDING)
            if len(body):
                raise ProtocolError("a site that holds its shares has no more to say")

        ready = self._collect(replies, frozenset(self._commitments), read)
        self._need_members("sites that hold their shares", ready, keys.terms, keys.quorum)
        self._check_holders(ready, self._graph)
        names = tuple(self._names(ready))
        return SumWindow(
            self._directory, keys, self._threads, graph=self._graph, commitments=self._commitments, members=names
        )
