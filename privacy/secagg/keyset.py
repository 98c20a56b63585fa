"""What site and coordinator both work out from signed messages: a window's terms, its key set, a slot's keys.

Everything that could weaken a round if somebody were free to choose it (word width, threshold, quorum, number of
holders) is computed here from the signed key set and the signed roster, on each side for itself.

A window is R slots whose keys are agreed on at once; a slot masks one vector of every site. The key set binds what
holds for the whole window. What a slot is for (round, adapter, length, grid) is bound by the slot's own digest, over
key-set digest, slot and slot terms, and that digest enters every mask and every signature of the slot. So a site that
was given another adapter or range has masks that cancel with nobody's, and stands in no quorum but its own; and a
quorum over a survivor set is one over the same adapter and range too.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import ProtocolError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.fixedpoint import Grid, packed_bytes, word_width
from yoriai.privacy.secagg.graph import Graph, Plan, choosers, plan, quorum
from yoriai.privacy.secagg.masks import MaskKey, derive
from yoriai.privacy.secagg.messages import LABEL, Advertisement, Binding, Buffer, MessageKind
from yoriai.privacy.secagg.secret import SecretBytes

_WINDOW = struct.Struct(">16sIH32s32sHHI")
_SLOT = struct.Struct(">32sHI32sQ")
RUN_BYTES = 16
MOST_SLOTS = 256


@dataclass(frozen=True)
class WindowTerms:
    """What the parties of a window agree on beforehand. Each site builds it from the job that *it* accepted.

    Args:
        run: 16 bytes that name the run, never used for another.
        number: of the window; only the keys, fresh at every site, make it one of a kind.
        slots: vectors that a site may mask before new keys are needed, 1 to 256.
        job_digest: 32 bytes, SHA-256 of the job and the noise that it was offered with.
        roster_digest: 32 bytes, `Roster.digest`.
        n_counts: evaluation counts in the tail, besides the number of clipped coordinates; 0 unless they are noised
            and charged.
        least_survivors: the number of survivors that the job's noise is calibrated to, at least 2.
        full_rank: the job's rank, which a rank in the roster is judged by; None if every site gives the whole vector,
            whatever its rank.
    """

    run: bytes
    number: int
    slots: int
    job_digest: bytes
    roster_digest: bytes
    n_counts: int = 0
    least_survivors: int = 2
    full_rank: int | None = None

    def __post_init__(self) -> None:
        if len(self.run) != RUN_BYTES or any(len(digest) != 32 for digest in (self.job_digest, self.roster_digest)):
            raise ProtocolError("terms of a window", expected="a run of 16 bytes and digests of 32")
        if not 1 <= self.slots <= MOST_SLOTS:
            raise ProtocolError("slots of a window", found=str(self.slots), expected=f"1 to {MOST_SLOTS}")
        if not (0 <= self.number < 2**32 and 0 <= self.n_counts < 2**16):
            raise ProtocolError("terms of a window", expected="number and counts within their ranges")
        if not 2 <= self.least_survivors < 2**16:
            raise ProtocolError("least number of survivors", found=str(self.least_survivors), expected="at least 2")
        if self.full_rank is not None and not 1 <= self.full_rank < 2**32:
            raise ProtocolError("the job's rank", found=str(self.full_rank), expected="at least 1")

    @cached_property
    def binding(self) -> Binding:
        """Ties advertisements and the key set to these terms."""
        fields = (self.run, self.number, self.slots, self.job_digest, self.roster_digest)
        packed = _WINDOW.pack(*fields, self.n_counts, self.least_survivors, self.full_rank or 0)
        return Binding(self.run, self.number, hashlib.sha256(LABEL + b"/window\0" + packed).digest())

    @property
    def tail_words(self) -> int:
        """64-bit words of the tail: the number of clipped coordinates, then the counts."""
        return 1 + self.n_counts


@dataclass(frozen=True)
class SlotTerms:
    """What one slot is used for. Each site works it out from its own job and the request for its update.

    Args:
        slot: which of the window's, from 0.
        round_index: round of the run.
        adapter_digest: 32 bytes, of the whole adapter that the round starts from. Sites that were sent others (such as
            one whose gradients vanish, so that the sum is a single site's update) have no mask and no quorum in common.
        n_params: length of the update.
        grid: what the words stand for, with the public range.
    """

    slot: int
    round_index: int
    adapter_digest: bytes
    n_params: int
    grid: Grid

    def __post_init__(self) -> None:
        if len(self.adapter_digest) != 32:
            raise ProtocolError("terms of a slot", expected="a digest of 32 bytes")
        if not (0 <= self.slot < MOST_SLOTS and 0 <= self.round_index < 2**32 and 1 <= self.n_params < 2**40):
            raise ProtocolError("terms of a slot", expected="slot, round and length within their ranges")

    def digest(self, key_set: bytes) -> bytes:
        """SHA-256 over the key set's digest and these terms: what everything in the slot is tied to."""
        packed = _SLOT.pack(key_set, self.slot, self.round_index, self.adapter_digest, self.n_params)
        return hashlib.sha256(LABEL + b"/slot\0" + packed + self.grid.encode()).digest()


@dataclass(frozen=True)
class KeySet:
    """The verified public keys of a window, by roster position, and all that follows from them."""

    terms: WindowTerms
    advertised: Mapping[int, Advertisement]
    signing_keys: Mapping[int, Ed25519PublicKey]
    weights: tuple[int, ...]
    binding: Binding

    @property
    def ids(self) -> tuple[int, ...]:
        """Members, ascending."""
        return tuple(self.advertised)

    @cached_property
    def plan(self) -> Plan:
        """Holders, threshold and in-degree limit for this many members."""
        return plan(len(self.advertised))

    @property
    def quorum(self) -> int:
        """Consistency signatures without which nothing opens."""
        return quorum(len(self.advertised))

    def open_sealed(self, data: Buffer, kind: MessageKind, binding: Binding | None = None) -> tuple[int, memoryview]:
        """Sender and body of a member's message that is bound to this key set, or to one of its slots."""
        return wire.open_sealed(data, kind, binding or self.binding, lambda sender, _: self.key_of(sender))

    def key_of(self, sender: int) -> Ed25519PublicKey:
        """Signing key of a member.

        Raises:
            ProtocolError: if the sender is not in the key set.
        """
        if sender not in self.signing_keys:
            raise ProtocolError("a message from outside the key set", found=f"position {sender}")
        return self.signing_keys[sender]

    def slot(self, terms: SlotTerms) -> "SlotKeys":
        """The keys of one slot under these terms.

        Raises:
            ProtocolError: if the window has no such slot, or the members' weights do not go with the grid.
        """
        if terms.slot >= self.terms.slots:
            expected = f"below {self.terms.slots}"
            raise ProtocolError("the window has no such slot", found=str(terms.slot), expected=expected)
        return SlotKeys(self, terms, word_width(terms.grid, self.weights))


@dataclass(frozen=True)
class SlotKeys:
    """One slot of a key set, for one vector: everything made from it is tied to the slot's terms."""

    window: KeySet
    terms: SlotTerms
    word_bits: int

    @cached_property
    def binding(self) -> Binding:
        """Ties masks and messages to key set, slot and slot terms."""
        terms, digest = self.window.terms, self.terms.digest(self.window.binding.digest)
        return Binding(terms.run, self.terms.round_index, digest)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the packed vector of a masked update."""
        return packed_bytes(self.terms.n_params, self.word_bits)

    @property
    def tail_words(self) -> int:
        """64-bit words of the tail."""
        return self.window.terms.tail_words

    def open_sealed(self, data: Buffer, kind: MessageKind) -> tuple[int, memoryview]:
        """Sender and body of a member's message that is bound to this slot and its terms."""
        return self.window.open_sealed(data, kind, self.binding)

    def mask_key(self, site: int) -> bytes:
        """A member's public mask key of this slot."""
        return self.window.advertised[site].mask_keys[self.terms.slot]

    def pair_mask(self, a: int, b: int, agreed: SecretBytes) -> MaskKey:
        """Key of the mask between two members, the same at both ends. The lower position adds it, the higher
        subtracts."""
        return MaskKey(agreed, self.pair(a, b))

    def pair(self, a: int, b: int) -> bytes:
        """What the key of a pair's mask is bound to; no other pair or slot has it."""
        return self.binding.context("pair mask", min(a, b), max(a, b))

    def self_mask(self, site: int, seed: SecretBytes) -> MaskKey:
        """Key of a member's own mask."""
        return MaskKey(seed, self.binding.context("self mask", site))


def verify_advertisement(terms: WindowTerms, directory: Directory, data: Buffer) -> tuple[int, Advertisement]:
    """Sender and content of an advertisement whose certificate and signature hold for these terms.

    Raises:
        ProtocolError, IdentityError: otherwise.
    """

    def key_of(sender: int, body: memoryview) -> Ed25519PublicKey:
        return directory.check(sender, Advertisement.decode(body, terms.slots).certificate)

    sender, body = wire.open_sealed(data, MessageKind.ADVERTISEMENT, terms.binding, key_of)
    return sender, Advertisement.decode(body, terms.slots)


def verify_key_set(terms: WindowTerms, directory: Directory, blobs: Iterable[Buffer]) -> KeySet:
    """Check every advertisement and derive the window's numbers.

    Raises:
        ProtocolError: on a wrong signature, a member twice, one public key in two places (a key of one use could
            then stand for another, or for one of another slot), other terms or another roster, or an impossible size.
        IdentityError: on an unknown, expired or revoked certificate.
    """
    if directory.roster.digest != terms.roster_digest:
        raise ProtocolError("the window names another roster", remedy="fetch the newest roster from the consortium")
    advertised = [verify_advertisement(terms, directory, blob) for blob in blobs]
    ids = [sender for sender, _ in advertised]
    if ids != sorted(set(ids)):
        raise ProtocolError("key set with a member twice or out of order")
    plan(len(ids))
    keys = [key for _, a in advertised for key in (a.encryption_key, *a.mask_keys)]
    if len(set(keys)) != len(keys):
        raise ProtocolError("one public key stands in two places of the key set", remedy="the window is void")
    digest = hashlib.sha256(LABEL + b"/key set\0" + terms.binding.digest)
    for sender, a in advertised:
        digest.update(struct.pack(">H", sender) + hashlib.sha256(a.encode()).digest())
    return KeySet(
        terms=terms,
        advertised=dict(advertised),
        signing_keys={sender: directory.check(sender, a.certificate) for sender, a in advertised},
        weights=tuple(directory.weight(sender) for sender in ids),
        binding=Binding(terms.run, terms.number, digest.digest()),
    )


def verify_choice(key_set: KeySet, data: Buffer) -> tuple[int, frozenset[int]]:
    """A member and the holders it drew, signed over this very key set.

    Raises:
        ProtocolError: on a wrong signature or number, on strangers, or on the member itself among its holders.
    """
    sender, body = key_set.open_sealed(data, MessageKind.HOLDER_CHOICE)
    drawn = frozenset(wire.decode_sites(body, MessageKind.HOLDER_CHOICE))
    if len(drawn) != key_set.plan.holders or sender in drawn or not drawn <= key_set.advertised.keys():
        raise ProtocolError("a site's choice of holders", expected=f"{key_set.plan.holders} other members")
    return sender, drawn


def verify_choices(key_set: KeySet, blobs: Iterable[Buffer]) -> Graph:
    """The graph: who took part in signing the key set, and whom each drew.

    Raises:
        ProtocolError: as `verify_choice`, or if a member stands twice.
    """
    choices = [verify_choice(key_set, blob) for blob in blobs]
    graph = dict(choices)
    if len(graph) != len(choices):
        raise ProtocolError("a site's choice of holders stands twice")
    return graph


def crowded(key_set: KeySet, graph: Graph, site: int) -> bool:
    """Whether more sites drew this one than chance explains: it would have to mask with all of them."""
    return len(choosers(site, graph)) > key_set.plan.in_degree_limit


def seed_commitment(key_set: KeySet, slot: int, site: int, seed: SecretBytes) -> bytes:
    """What a site publishes of a slot's self-mask seed, so that a wrongly rebuilt one is noticed: an HKDF output, 32
    bytes."""
    return derive(seed, key_set.binding.context("seed commitment", slot, site)).reveal()


def survivor_digest(survivors: Iterable[int]) -> bytes:
    """SHA-256 of a survivor set, what consistency messages sign together with run, round and the slot's digest."""
    return hashlib.sha256(LABEL + b"/survivors\0" + wire.encode_sites(survivors)).digest()
