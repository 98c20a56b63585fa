"""The site's side of a secure sum: one class a stage, each used once.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, the variant
against active adversaries; above 32 sites with a neighbour graph after Bell et al., CCS 2020 (see `graph.py`).

Threat model: the coordinator and up to floor(n/3) of the n members of the key set collude and deviate at will. Then
the coordinator learns nothing of an honest site's update but the sum over the agreed survivors. A site trusts its own
job, policy, roster, pinned CA and generator, and its durable mark of spent updates; of the coordinator it believes
nothing.

Not covered: availability (any member can spoil a round), a correct sum if a member lies about its own update, what
the sum itself tells (differential privacy answers for that), timing, and colluders chosen after the graph has been
drawn.

    advertise() -> Advertised --key set--> KeysSigned --choices--> SharesSealed --relayed shares--> ReadyToMask
    ReadyToMask --update, spend--> Masked --survivors--> Agreed --unmask request--> released shares, and nothing more

The table of messages stands in `messages.py`. A stage object takes one message; whatever that leads to, it takes no
second one. After a refusal the site is out of the round, and a restarted process has no stage objects at all.
"""

from collections.abc import Collection

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from yoriai.errors import PolicyError, ProtocolError
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, choosers, draw_holders, neighbours, short_of_holders
from yoriai.privacy.secagg.keyset import (
    KeySet,
    RoundTerms,
    crowded,
    seed_commitment,
    survivor_digest,
    verify_choices,
    verify_key_set,
)
from yoriai.privacy.secagg.masking import masked_update, own_masks
from yoriai.privacy.secagg.member import Member, Spend, Update
from yoriai.privacy.secagg.messages import Advertisement, Buffer, Kind, RelayedShares, ReleasedShares, SealedShares
from yoriai.privacy.secagg.messages import ShareKind as Share
from yoriai.privacy.secagg.ranks import thin_among
from yoriai.privacy.secagg.secret import Guarded, OneShot, SecretBytes
from yoriai.privacy.secagg.sharing import HeldShares, open_shares, seal_shares

_DISTRUST = "do not trust this coordinator"


class _Stage(Guarded):
    """One stage of one round at one site."""

    def __init__(self, member: Member, terms: RoundTerms) -> None:
        self._member, self._terms, self._own = member, terms, member.position
        self._once = OneShot(f"stage {type(self).__name__}")

    def _check_members(self, what: str, members: Collection[int], at_least: int = 0) -> None:
        """Enough sites in all, and of every rank that one of them has: what opens are sums over whole ranks."""
        summed = max(self._member.policy.min_sites, self._terms.least_survivors)
        count, least = len(members), max(summed, at_least)
        if count < least:
            raise PolicyError(f"too few {what}", found=str(count), expected=f"at least {least}", remedy="wait for more")
        if thin := thin_among(self._member.directory, members, self._terms.full_rank, summed):
            raise PolicyError(
                f"too few {what} for a rank that the roster names",
                found=f"rank {thin[0]}",
                expected=f"at least {summed} sites of this rank",
                remedy="wait for more, or have the roster give its sites fewer ranks",
            )


def advertise(member: Member, terms: RoundTerms) -> tuple["Advertised", bytes]:
    """Enter a round: draw two fresh key pairs, and sign their public halves.

    Raises:
        PolicyError: if the terms ask for counts that this site does not give.
    """
    if terms.n_counts and not member.policy.allow_counts:
        raise PolicyError("the job asks for evaluation counts", expected="none, as this site's policy says")
    stage = Advertised(member, terms)
    return stage, wire.seal(Kind.ADVERTISEMENT, terms.binding, member.position, stage.public.encode(), member.key)


class Advertised(_Stage):
    """Keys are advertised; the key set is awaited."""

    def __init__(self, member: Member, terms: RoundTerms) -> None:
        super().__init__(member, terms)
        self._encryption = X25519PrivateKey.from_private_bytes(member.entropy(32))
        self._mask_secret = SecretBytes(member.entropy(32))
        mask_key = X25519PrivateKey.from_private_bytes(self._mask_secret.reveal()).public_key()
        encryption_key = self._encryption.public_key()
        self.public = Advertisement(encryption_key.public_bytes_raw(), mask_key.public_bytes_raw(), member.certificate)

    def step(self, key_set: Buffer) -> tuple["KeysSigned", bytes]:
        """Verify the key set, draw the holders of this site's shares, and sign both.

        Raises:
            ProtocolError, IdentityError: if any member's keys are not what it signed under a valid certificate, or this
                site's own keys are missing or changed.
            PolicyError: if the key set is smaller than policy and job demand.
        """
        self._once.claim()
        body = wire.open_frame(key_set, Kind.KEY_SET, self._terms.binding)
        keys = verify_key_set(self._terms, self._member.directory, wire.decode_list(body, Kind.KEY_SET))
        if keys.advertised.get(self._own) != self.public:
            raise ProtocolError("the key set does not hold this site's own keys", remedy=_DISTRUST)
        self._check_members("sites in the key set", keys.ids)
        drawn = draw_holders(self._own, keys.ids, self._member.entropy)
        stage = KeysSigned(self._member, keys, frozenset(drawn), self._encryption, self._mask_secret)
        return stage, wire.seal(Kind.HOLDER_CHOICE, keys.binding, self._own, wire.encode_sites(drawn), self._member.key)


class KeysSigned(_Stage):
    """The key set is signed; the other members' signatures and choices of holders are awaited."""

    def __init__(
        self,
        member: Member,
        keys: KeySet,
        drawn: frozenset[int],
        encryption: X25519PrivateKey,
        mask_secret: SecretBytes,
    ) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._drawn, self._encryption, self._mask_secret = keys, drawn, encryption, mask_secret

    def step(self, choices: Buffer) -> tuple["SharesSealed", bytes]:
        """Verify the graph, then share the self-mask seed and the mask key among this site's holders.

        Raises:
            ProtocolError: on a forged or foreign choice, too few of this site's holders, or too many that chose it.
            PolicyError: if fewer than the quorum, or than policy and job demand, have signed the key set.
        """
        self._once.claim()
        keys, own = self._keys, self._own
        body = wire.open_frame(choices, Kind.HOLDER_CHOICES, keys.binding)
        graph = verify_choices(keys, wire.decode_list(body, Kind.HOLDER_CHOICES))
        if graph.get(own) != self._drawn:
            raise ProtocolError("the graph does not hold this site's own choice", remedy=_DISTRUST)
        self._check_members("sites that signed the key set", graph, keys.quorum)
        if crowded(keys, graph, own):
            raise ProtocolError("more sites chose this one than chance explains", remedy="the round is void")
        holders = self._drawn & frozenset(graph)
        if len(holders) < keys.plan.threshold:
            raise ProtocolError("too few holders for this site's shares", found=str(len(holders)))
        seed = SecretBytes(self._member.entropy(32))
        secrets = (seed, self._mask_secret)
        sealed = seal_shares(keys, own, self._encryption, secrets, holders, self._member.entropy)
        message = SealedShares(seed_commitment(keys, own, seed), sealed)
        stage = SharesSealed(self._member, keys, graph, self._encryption, secrets)
        return stage, wire.seal(Kind.SEALED_SHARES, keys.binding, own, message.encode(), self._member.key)


class SharesSealed(_Stage):
    """Shares are on their way; those of the sites that chose this one are awaited."""

    def __init__(
        self,
        member: Member,
        keys: KeySet,
        graph: Graph,
        encryption: X25519PrivateKey,
        secrets: tuple[SecretBytes, SecretBytes],
    ) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._graph, self._encryption, self._secrets = keys, graph, encryption, secrets

    def step(self, relayed: Buffer) -> "ReadyToMask":
        """Decrypt the shares that this site holds for others; who has not shared by now takes no part.

        Raises:
            ProtocolError: on a missing, surplus, truncated or changed ciphertext, or members without enough holders.
            PolicyError: if too few have shared.
        """
        self._once.claim()
        keys, graph, own = self._keys, self._graph, self._own
        message = RelayedShares.decode(wire.open_frame(relayed, Kind.RELAYED_SHARES, keys.binding))
        sharers = frozenset(message.sharers)
        if own not in sharers or not sharers <= set(graph):
            raise ProtocolError("sites that have shared", expected="this one and others that signed the key set")
        self._check_members("sites that have shared", sharers, keys.quorum)
        _check_holders(sharers, graph, keys)
        if set(message.sealed) != choosers(own, graph) & sharers:
            raise ProtocolError("relayed shares", expected="one from each site that chose this one, and no others")
        held = open_shares(keys, own, self._encryption, message.sealed)
        return ReadyToMask(self._member, keys, graph, sharers, held=held, secrets=self._secrets)


class ReadyToMask(_Stage):
    """Everything is agreed but the update itself: the site trains now."""

    def __init__(
        self,
        member: Member,
        keys: KeySet,
        graph: Graph,
        sharers: frozenset[int],
        *,
        held: HeldShares,
        secrets: tuple[SecretBytes, SecretBytes],
    ) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._graph, self._sharers, self._held, self._secrets = keys, graph, sharers, held, secrets

    @property
    def word_bits(self) -> int:
        """Width w of this round's masked words."""
        return self._keys.word_bits

    def step(self, update: Update, spend: Spend) -> tuple["Masked", bytes]:
        """Mark the update as spent, then mask it.

        Raises:
            SpentError: if this object entered a masked input before; whatever `spend` raises. Nothing is masked then.
            ProtocolError: if the update does not fit the round; it is not spent then.
        """
        self._once.claim()
        update.check(self._terms)
        update.claim()
        spend(update.identity)
        stage = Masked(self._member, self._keys, self._graph, self._sharers, self._held)
        masks = own_masks(self._keys, self._own, self._secrets, neighbours(self._own, self._graph) & self._sharers)
        return stage, masked_update(self._keys, self._member, update, masks)


class Masked(_Stage):
    """The masked update is out; the survivor set is awaited."""

    def __init__(self, member: Member, keys: KeySet, graph: Graph, sharers: frozenset[int], held: HeldShares) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._graph, self._sharers, self._held = keys, graph, sharers, held

    def step(self, survivors: Buffer) -> tuple["Agreed", bytes]:
        """Sign one survivor set, once.

        Raises:
            ProtocolError: if it leaves this site out, names a site that did not share, or one without enough holders
            in it.
            PolicyError: if it is smaller than the quorum, or than policy and job demand, in all or for one rank.
        """
        self._once.claim()
        keys, own = self._keys, self._own
        named = wire.decode_sites(wire.open_frame(survivors, Kind.SURVIVORS, keys.binding), Kind.SURVIVORS)
        alive = frozenset(named)
        if own not in alive or not alive <= self._sharers:
            raise ProtocolError("survivor set", expected="this site, and others that have shared")
        self._check_members("survivors", alive, keys.quorum)
        _check_holders(alive, self._graph, keys)
        digest = survivor_digest(alive)
        stage = Agreed(self._member, keys, alive, self._held)
        return stage, wire.seal(Kind.CONSISTENCY, keys.binding, own, digest, self._member.key)


class Agreed(_Stage):
    """This site has signed a survivor set; proof that a quorum signed the same one is awaited."""

    def __init__(self, member: Member, keys: KeySet, survivors: frozenset[int], held: HeldShares) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._survivors, self._held = keys, survivors, held

    def step(self, request: Buffer) -> bytes:
        """Release one share an owner: of the seed if it survived, of the mask key if it dropped out.

        Raises:
            ProtocolError: unless a quorum of distinct survivors signed exactly the set that this site signed.
        """
        self._once.claim()
        keys, digest = self._keys, survivor_digest(self._survivors)
        body = wire.open_frame(request, Kind.UNMASK_REQUEST, keys.binding)
        signers = set()
        for blob in wire.decode_list(body, Kind.UNMASK_REQUEST):
            signer, signed = keys.open_sealed(blob, Kind.CONSISTENCY)
            if signer not in self._survivors or bytes(signed) != digest:
                raise ProtocolError("a consistency signature", expected="a survivor's, over the set signed here")
            signers.add(signer)
        if len(signers) < keys.quorum:
            raise ProtocolError("too few consistency signatures", found=str(len(signers)), expected=str(keys.quorum))
        released = {}
        for owner, (seed_share, key_share) in self._held.items():
            survived = owner in self._survivors
            released[owner] = (Share.SEED, seed_share) if survived else (Share.MASK_KEY, key_share)
        message = ReleasedShares(released).encode()
        return wire.seal(Kind.RELEASED_SHARES, keys.binding, self._own, message, self._member.key)


def _check_holders(members: frozenset[int], graph: Graph, keys: KeySet) -> None:
    short = short_of_holders(members, graph, keys.plan.threshold)
    if short:
        raise ProtocolError("members with too few holders alive", found=str(len(short)), remedy="the round is void")
