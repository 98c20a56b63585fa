"""The site's side of a secure sum: one class a stage, each used once. Here a window is opened; `slot.py` uses it up.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, the variant
against active adversaries; above 32 sites with a neighbour graph after Bell et al., CCS 2020 (see `graph.py`). That the
keys of R rounds are agreed on at once is our own; why it is safe stands below.

Threat model: the coordinator and up to floor(n/3) of the n members of the key set collude and deviate at will. Then
the coordinator learns nothing of an honest site's update but the sum over the agreed survivors. A site trusts its own
job, policy, roster, pinned CA and generator, and its durable mark of spent updates; of the coordinator it believes
nothing.

Windows: every slot has a mask key pair and a self-mask seed of its own, independent of the other slots', shared by
polynomials of their own. So what is released in one slot is of no use in another, and a slot is as safe as a round
with fresh keys, on one condition: that everybody who counts in it means the same by it. Let an honest site be sent
terms X in a slot and others terms Y. Every mask of the slot has its terms in the derivation, so X-masks and Y-masks of
one pair do not cancel; and two survivor sets cannot both have a quorum, because an honest site signs one set in a slot,
under the terms that it masked under. Say the quorum is Y's. If it leaves the site out, its self-mask stays on its
update; if it names the site as a survivor, the site's mask key is never released, and its pair masks stay on. Honest
survivors are connected in the graph, so some pair mask is left in every sum over them in which both terms occur.

Not covered: availability (any member can spoil a round), a correct sum if a member lies about its own update, what
the sum itself tells (differential privacy answers for that), timing, and colluders chosen after the graph has been
drawn, for which a window leaves more time than a round.

    advertise() -> Advertised --key set--> KeysSigned --choices--> SharesSealed --relayed shares--> SiteWindow,
    and HOLDING
    in every slot: SiteWindow.begin --terms--> ReadyToMask --update--> Masked --survivors--> Agreed --request--> shares

The table of messages stands in `messages.py`. A stage object takes one message; whatever that leads to, it takes no
second one. After a refusal the site is out of the window or the slot, and a restarted process has neither.
"""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from yoriai.errors import PolicyError, ProtocolError
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, choosers, draw_holders
from yoriai.privacy.secagg.keyset import KeySet, WindowTerms, crowded, seed_commitment, verify_choices, verify_key_set
from yoriai.privacy.secagg.member import Member
from yoriai.privacy.secagg.messages import Advertisement, Buffer, MessageKind, RelayedShares, SealedShares
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import Pair, open_shares, seal_shares
from yoriai.privacy.secagg.slot import SiteStage, SiteWindow

_DISTRUST = "do not trust this coordinator"


def advertise(member: Member, terms: WindowTerms) -> tuple["Advertised", bytes]:
    """Enter a window: draw a fresh key pair to encrypt to and one a slot to mask with, and sign their public halves.

    Raises:
        PolicyError: if the terms ask for counts that this site does not give.
    """
    if terms.n_counts and not member.policy.allow_counts:
        raise PolicyError("the job asks for evaluation counts", expected="none, as this site's policy says")
    stage = Advertised(member, terms)
    return stage, wire.seal(
        MessageKind.ADVERTISEMENT, terms.binding, member.position, stage.public.encode(), member.key
    )


class Advertised(SiteStage):
    """Keys are advertised; the key set is awaited."""

    def __init__(self, member: Member, terms: WindowTerms) -> None:
        super().__init__(member, terms)
        self._encryption = X25519PrivateKey.from_private_bytes(member.entropy(32))
        self._mask_secrets = tuple(SecretBytes(member.entropy(32)) for _ in range(terms.slots))
        mask_keys = (X25519PrivateKey.from_private_bytes(secret.reveal()) for secret in self._mask_secrets)
        self.public = Advertisement(
            self._encryption.public_key().public_bytes_raw(),
            tuple(key.public_key().public_bytes_raw() for key in mask_keys),
            member.certificate,
        )

    def step(self, key_set: Buffer) -> tuple["KeysSigned", bytes]:
        """Verify the key set, draw the holders of this site's shares, and sign both.

        Raises:
            ProtocolError, IdentityError: if any member's keys are not what it signed under a valid certificate, or this
                site's own keys are missing or changed.
            PolicyError: if the key set is smaller than policy and job demand.
        """
        self._once.claim()
        body = wire.open_frame(key_set, MessageKind.KEY_SET, self._terms.binding)
        keys = self._once_for_all(
            body,
            lambda: verify_key_set(self._terms, self._member.directory, wire.decode_list(body, MessageKind.KEY_SET)),
        )
        if keys.advertised.get(self._own) != self.public:
            raise ProtocolError("the key set does not hold this site's own keys", remedy=_DISTRUST)
        self._check_members("sites in the key set", keys.ids)
        drawn = draw_holders(self._own, keys.ids, self._member.entropy)
        stage = KeysSigned(self._member, keys, frozenset(drawn), self._encryption, self._mask_secrets)
        return stage, wire.seal(
            MessageKind.HOLDER_CHOICE, keys.binding, self._own, wire.encode_sites(drawn), self._member.key
        )


class KeysSigned(SiteStage):
    """The key set is signed; the other members' signatures and choices of holders are awaited."""

    def __init__(
        self,
        member: Member,
        keys: KeySet,
        drawn: frozenset[int],
        encryption: X25519PrivateKey,
        mask_secrets: Sequence[SecretBytes],
    ) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._drawn, self._encryption, self._mask_secrets = keys, drawn, encryption, mask_secrets

    def step(self, choices: Buffer) -> tuple["SharesSealed", bytes]:
        """Verify the graph, then share every slot's self-mask seed and mask key among this site's holders.

        Raises:
            ProtocolError: on a forged or foreign choice, too few of this site's holders, or too many that chose it.
            PolicyError: if fewer than the quorum, or than policy and job demand, have signed the key set.
        """
        self._once.claim()
        keys, own = self._keys, self._own
        body = wire.open_frame(choices, MessageKind.HOLDER_CHOICES, keys.binding)
        graph = self._once_for_all(
            body, lambda: verify_choices(keys, wire.decode_list(body, MessageKind.HOLDER_CHOICES))
        )
        if graph.get(own) != self._drawn:
            raise ProtocolError("the graph does not hold this site's own choice", remedy=_DISTRUST)
        self._check_members("sites that signed the key set", graph, keys.quorum)
        if crowded(keys, graph, own):
            raise ProtocolError("more sites chose this one than chance explains", remedy="the window is void")
        holders = self._drawn & frozenset(graph)
        if len(holders) < keys.plan.threshold:
            raise ProtocolError("too few holders for this site's shares", found=str(len(holders)))
        secrets = tuple((SecretBytes(self._member.entropy(32)), mask_secret) for mask_secret in self._mask_secrets)
        sealed = seal_shares(keys, self._member, self._encryption, secrets, holders)
        commitments = tuple(seed_commitment(keys, slot, own, seed) for slot, (seed, _) in enumerate(secrets))
        message = SealedShares(commitments, sealed)
        stage = SharesSealed(self._member, keys, graph, self._encryption, secrets)
        return stage, wire.seal(MessageKind.SEALED_SHARES, keys.binding, own, message.encode(), self._member.key)


class SharesSealed(SiteStage):
    """Shares are on their way; those of the sites that chose this one are awaited."""

    def __init__(
        self,
        member: Member,
        keys: KeySet,
        graph: Graph,
        encryption: X25519PrivateKey,
        secrets: Sequence[Pair],
    ) -> None:
        super().__init__(member, keys.terms)
        self._keys, self._graph, self._encryption, self._secrets = keys, graph, encryption, secrets

    def step(self, relayed: Buffer) -> tuple[SiteWindow, bytes]:
        """Decrypt the shares that this site holds for others, and sign that it does.

        Who has not shared by now takes no part in the whole window.

        Raises:
            ProtocolError: on a missing, surplus, truncated or changed ciphertext, or members without enough holders.
            PolicyError: if too few have shared.
        """
        self._once.claim()
        keys, graph, own = self._keys, self._graph, self._own
        body = wire.open_frame(relayed, MessageKind.RELAYED_SHARES, keys.binding)
        message = RelayedShares.decode(body, keys.terms.slots)
        sharers = frozenset(message.sharers)
        if own not in sharers or not sharers <= set(graph):
            raise ProtocolError("sites that have shared", expected="this one and others that signed the key set")
        self._check_members("sites that have shared", sharers, keys.quorum)
        self._check_holders(sharers, graph, keys)
        if set(message.sealed) != choosers(own, graph) & sharers:
            raise ProtocolError("relayed shares", expected="one from each site that chose this one, and no others")
        shares = open_shares(keys, self._member, self._encryption, message.sealed)
        window = SiteWindow(keys, graph, sharers, own=own, secrets=self._secrets, shares=shares)
        return window, wire.seal(MessageKind.HOLDING, keys.binding, own, b"", self._member.key)
