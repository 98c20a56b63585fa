"""The site's side of one slot of a window: an update masked, a survivor set signed, shares released, each once.

Threat model and sources: see `site.py`. Slots go upwards, and what belonged to a slot is forgotten when the next one
begins, whether the site took part in it or not.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from yoriai.errors import PolicyError, ProtocolError
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, neighbours, short_of_holders
from yoriai.privacy.secagg.keyset import KeySet, SlotKeys, SlotTerms, WindowTerms, survivor_digest
from yoriai.privacy.secagg.masking import masked_update, own_masks
from yoriai.privacy.secagg.member import Member, Spend, Update
from yoriai.privacy.secagg.messages import Buffer, MessageKind, ReleasedShares
from yoriai.privacy.secagg.messages import ShareKind as Share
from yoriai.privacy.secagg.ranks import thin_among
from yoriai.privacy.secagg.secret import Guarded, OneShot
from yoriai.privacy.secagg.sharing import HeldShares, Pair

Verified = TypeVar("Verified")


class SiteStage(Guarded):
    """One stage of one window or slot at one site."""

    def __init__(self, member: Member, terms: WindowTerms) -> None:
        self._member, self._terms, self._own = member, terms, member.position
        self._once = OneShot(f"stage {type(self).__name__}")

    def _check_members(self, what: str, members: Collection[int], at_least: int = 0) -> None:
        """Enough sites in all, and of every rank that one of them has: what opens are sums over whole ranks."""
        summed = max(self._member.policy.min_sites, self._terms.least_survivors)
        count, least = len(members), max(summed, at_least)
        if count < least:
            raise PolicyError(f"too few {what}", found=str(count), expected=f"at least {least}", remedy="wait for more")
        directory, full = self._member.directory, self._terms.full_rank
        asked = ("ranks", directory.roster.digest, frozenset(members), full, summed)
        if thin := self._member.work.once(asked, lambda: thin_among(directory, members, full, summed)):
            raise PolicyError(
                f"too few {what} for a rank that the roster names",
                found=f"rank {thin[0]}",
                expected=f"at least {summed} sites of this rank",
                remedy="wait for more, or have the roster give its sites fewer ranks",
            )

    def _check_holders(self, members: frozenset[int], graph: Graph, keys: KeySet) -> None:
        """Raise ProtocolError unless every member has enough holders among the members."""
        asked = ("holders", keys.binding, members)
        short = self._member.work.once(asked, lambda: short_of_holders(members, graph, keys.plan.threshold))
        if short:
            found = str(len(short))
            raise ProtocolError("members with too few holders alive", found=found, remedy="the round is void")

    def _once_for_all(self, body: memoryview, verify: Callable[[], Verified]) -> Verified:
        """What is verified of a message that all members are sent, under this site's terms."""
        asked = (type(self), self._terms, hashlib.sha256(body).digest())
        return self._member.work.once(asked, verify)


class SiteWindow(Guarded):
    """A window at a site that holds its shares: in every slot a seed and a mask key, and a pair of shares an owner.

    Args:
        keys: the verified key set.
        graph: the signed choices of holders.
        sharers: who has shared, and so is masked with.
        own: this site's position.
        secrets: this site's seed and mask key, a pair a slot.
        shares: what the site holds for others.
    """

    def __init__(
        self,
        keys: KeySet,
        graph: Graph,
        sharers: frozenset[int],
        *,
        own: int,
        secrets: Sequence[Pair],
        shares: HeldShares,
    ) -> None:
        self._keys, self._graph, self._sharers, self._own = keys, graph, sharers, own
        self._slots = {
            slot: _SlotSecrets(pair, {owner: pairs[slot] for owner, pairs in shares.items()})
            for slot, pair in enumerate(secrets)
        }

    def begin(self, member: Member, terms: SlotTerms) -> "ReadyToMask":
        """Take a slot for one vector under these terms. It is used from then on, whatever becomes of it.

        Args:
            member: this site, with roster, certificates and clock as of now: they are judged anew in every slot.
            terms: of this site's own making.

        Raises:
            ProtocolError: if the slot was used or passed over or is none of the window's, the roster is no longer the
                window's, or weights and grid do not go together.
            IdentityError: if a member's certificate no longer holds.
        """
        if member.position != self._own or member.directory.roster.digest != self._keys.terms.roster_digest:
            raise ProtocolError("the roster is not the one of this window", remedy="begin a new window")
        member.work.once(("certificates", self._keys.binding, terms.slot), lambda: self._check_certificates(member))
        keys = self._keys.slot(terms)
        secrets = self._slots.pop(terms.slot, None)
        if secrets is None:
            found = f"slot {terms.slot}"
            raise ProtocolError("a slot that was used or passed over", found=found, remedy="take the next slot")
        self._slots = {slot: later for slot, later in self._slots.items() if slot > terms.slot}
        return ReadyToMask(member, keys, self._graph, self._sharers, secrets=secrets)

    def _check_certificates(self, member: Member) -> None:
        for site, advertised in self._keys.advertised.items():
            member.directory.check(site, advertised.certificate)


class _SlotSecrets(Guarded):
    """A site's own pair of one slot, and its pair of shares of every site that chose it."""

    __slots__ = ("own", "shares")

    def __init__(self, own: Pair, shares: dict[int, Pair]) -> None:
        self.own, self.shares = own, shares


class ReadyToMask(SiteStage):
    """A slot is taken: the site trains now."""

    def __init__(
        self, member: Member, keys: SlotKeys, graph: Graph, sharers: frozenset[int], *, secrets: _SlotSecrets
    ) -> None:
        super().__init__(member, keys.window.terms)
        self._keys, self._graph, self._sharers, self._secrets = keys, graph, sharers, secrets

    @property
    def word_bits(self) -> int:
        """Width w of this slot's masked words."""
        return self._keys.word_bits

    def check(self, update: Update) -> None:
        """Raise ProtocolError if the update does not fit the slot; nothing is used up."""
        update.check(self._keys)

    def step(self, update: Update, spend: Spend) -> tuple["Masked", bytes]:
        """Mark the update as spent, then mask it.

        Raises:
            SpentError: if this object entered a masked input before; whatever `spend` raises. Nothing is masked then.
            ProtocolError: if the update does not fit the slot; it is not spent then.
        """
        self._once.claim()
        self.check(update)
        update.claim()
        spend(update.identity)
        stage = Masked(self._member, self._keys, self._graph, self._sharers, self._secrets.shares)
        partners = neighbours(self._own, self._graph) & self._sharers
        masks = own_masks(self._keys, self._member, self._secrets.own, partners)
        return stage, masked_update(self._keys, self._member, update, masks)


class Masked(SiteStage):
    """The masked update is out; the survivor set is awaited."""

    def __init__(
        self, member: Member, keys: SlotKeys, graph: Graph, sharers: frozenset[int], shares: Mapping[int, Pair]
    ) -> None:
        super().__init__(member, keys.window.terms)
        self._keys, self._graph, self._sharers, self._shares = keys, graph, sharers, shares

    def step(self, survivors: Buffer) -> tuple["Agreed", bytes]:
        """Sign one survivor set, once.

        Raises:
            ProtocolError: if it leaves this site out, names a site that did not share, or one without enough holders
            in it.
            PolicyError: if it is smaller than the quorum, or than policy and job demand, in all or for one rank.
        """
        self._once.claim()
        keys, own = self._keys, self._own
        named = wire.decode_sites(
            wire.open_frame(survivors, MessageKind.SURVIVORS, keys.binding), MessageKind.SURVIVORS
        )
        alive = frozenset(named)
        if own not in alive or not alive <= self._sharers:
            raise ProtocolError("survivor set", expected="this site, and others that have shared")
        self._check_members("survivors", alive, keys.window.quorum)
        self._check_holders(alive, self._graph, keys.window)
        digest = survivor_digest(alive)
        stage = Agreed(self._member, keys, alive, self._shares)
        return stage, wire.seal(MessageKind.CONSISTENCY, keys.binding, own, digest, self._member.key)


class Agreed(SiteStage):
    """This site has signed a survivor set; proof that a quorum signed the same one is awaited."""

    def __init__(self, member: Member, keys: SlotKeys, survivors: frozenset[int], shares: Mapping[int, Pair]) -> None:
        super().__init__(member, keys.window.terms)
        self._keys, self._survivors, self._shares = keys, survivors, shares

    def step(self, request: Buffer) -> bytes:
        """Release one share an owner: of the seed if it survived, of the mask key if it dropped out.

        Raises:
            ProtocolError: unless a quorum of distinct survivors signed exactly the set that this site signed.
        """
        self._once.claim()
        keys, digest = self._keys, survivor_digest(self._survivors)
        body = wire.open_frame(request, MessageKind.UNMASK_REQUEST, keys.binding)
        asked = ("signers", keys.binding, digest, hashlib.sha256(body).digest())
        signers = self._member.work.once(asked, lambda: self._signers(body, digest))
        if len(signers) < (quorum := keys.window.quorum):
            raise ProtocolError("too few consistency signatures", found=str(len(signers)), expected=str(quorum))
        released = {}
        for owner, (seed_share, key_share) in self._shares.items():
            survived = owner in self._survivors
            released[owner] = (Share.SEED, seed_share) if survived else (Share.MASK_KEY, key_share)
        message = ReleasedShares(released).encode()
        return wire.seal(MessageKind.RELEASED_SHARES, keys.binding, self._own, message, self._member.key)

    def _signers(self, body: memoryview, digest: bytes) -> frozenset[int]:
        """The survivors whose signatures over this set are in a request."""
        signers = set()
        for blob in wire.decode_list(body, MessageKind.UNMASK_REQUEST):
            signer, signed = self._keys.open_sealed(blob, MessageKind.CONSISTENCY)
            if signer not in self._survivors or bytes(signed) != digest:
                raise ProtocolError("a consistency signature", expected="a survivor's, over the set signed here")
            signers.add(signer)
        return frozenset(signers)
