"""What site and coordinator both work out from signed messages: the round's terms, the key set, the graph.

Everything that could weaken a round if somebody were free to choose it (word width, threshold, quorum, number of
holders) is computed here from the signed key set and the signed roster, on each side for itself.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import ProtocolError
from yoriai.privacy.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.fixedpoint import FixedPoint, packed_bytes
from yoriai.privacy.secagg.graph import Graph, Plan, choosers, plan, quorum
from yoriai.privacy.secagg.masks import MaskKey, derive
from yoriai.privacy.secagg.messages import Advertisement, Binding, Buffer, Kind
from yoriai.privacy.secagg.secret import SecretBytes

_TERMS = struct.Struct(">16sI32s32s32sQBdHH")
RUN_BYTES = 16


@dataclass(frozen=True)
class RoundTerms:
    """What all parties of a round agree on beforehand. Each site builds it from the job that *it* accepted.

    Args:
        run: 16 bytes that name the run, never used for another.
        round_index: round of the run.
        job_digest: 32 bytes, SHA-256 of the job.
        roster_digest: 32 bytes, `Roster.digest`.
        adapter_digest: 32 bytes, of the whole adapter that the round starts from. Sites that were sent others (such as
            one whose gradients vanish, so that the sum is a single site's update) then find no common key set.
        n_params: length of the update.
        grid: the public fixed-point grid.
        n_counts: evaluation counts in the tail, besides the number of clipped coordinates; 0 unless they are noised
            and charged.
        least_survivors: the number of survivors that the job's noise is calibrated to, at least 2.
        full_rank: the job's rank, which a rank in the roster is judged by; None if every site gives the whole vector,
            whatever its rank.
    """

    run: bytes
    round_index: int
    job_digest: bytes
    roster_digest: bytes
    adapter_digest: bytes
    n_params: int
    grid: FixedPoint
    n_counts: int = 0
    least_survivors: int = 2
    full_rank: int | None = None

    def __post_init__(self) -> None:
        digests = (self.job_digest, self.roster_digest, self.adapter_digest)
        if len(self.run) != RUN_BYTES or any(len(digest) != 32 for digest in digests):
            raise ProtocolError("terms of a round", expected="a run of 16 bytes and digests of 32")
        if not (0 <= self.round_index < 2**32 and 1 <= self.n_params < 2**40 and 0 <= self.n_counts < 2**16):
            raise ProtocolError("terms of a round", expected="round, length and counts within their ranges")
        if not 2 <= self.least_survivors < 2**16:
            raise ProtocolError("least number of survivors", found=str(self.least_survivors), expected="at least 2")
        if self.full_rank is not None and not 1 <= self.full_rank < 2**32:
            raise ProtocolError("the job's rank", found=str(self.full_rank), expected="at least 1")

    @cached_property
    def binding(self) -> Binding:
        """Ties advertisements and the key set to these terms."""
        fields = (self.run, self.round_index, self.job_digest, self.roster_digest, self.adapter_digest)
        grid, counts = self.grid, (self.n_counts, self.least_survivors)
        packed = _TERMS.pack(*fields, self.n_params, grid.bits, grid.value_range, *counts)
        if self.full_rank is not None:
            packed += struct.pack(">I", self.full_rank)
        return Binding(self.run, self.round_index, hashlib.sha256(b"yoriai/secagg/2/terms\0" + packed).digest())

    @property
    def tail_words(self) -> int:
        """64-bit words of the tail: the number of clipped coordinates, then the counts."""
        return 1 + self.n_counts


@dataclass(frozen=True)
class KeySet:
    """The verified public keys of a round, by roster position, and all that follows from them."""

    terms: RoundTerms
    advertised: Mapping[int, Advertisement]
    signing_keys: Mapping[int, Ed25519PublicKey]
    total_weight: int
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

    @cached_property
    def word_bits(self) -> int:
        """Width w of the masked words for the weights of all members."""
        return self.terms.grid.word_bits(self.total_weight)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the packed vector of a masked update."""
        return packed_bytes(self.terms.n_params, self.word_bits)

    def open_sealed(self, data: Buffer, kind: Kind) -> tuple[int, memoryview]:
        """Sender and body of a member's message that is bound to this key set."""
        return wire.open_sealed(data, kind, self.binding, lambda sender, _: self.key_of(sender))

    def key_of(self, sender: int) -> Ed25519PublicKey:
        """Signing key of a member.

        Raises:
            ProtocolError: if the sender is not in the key set.
        """
        if sender not in self.signing_keys:
            raise ProtocolError("a message from outside the key set", found=f"position {sender}")
        return self.signing_keys[sender]

    def pair_mask(self, a: int, b: int, agreed: SecretBytes) -> MaskKey:
        """Key of the mask between two members, the same at both ends. The lower position adds it, the higher
        subtracts."""
        return MaskKey(agreed, self.binding.context("pair mask", min(a, b), max(a, b)))

    def self_mask(self, site: int, seed: SecretBytes) -> MaskKey:
        """Key of a member's own mask."""
        return MaskKey(seed, self.binding.context("self mask", site))


def verify_advertisement(terms: RoundTerms, directory: Directory, data: Buffer) -> tuple[int, Advertisement]:
    """Sender and content of an advertisement whose certificate and signature hold for these terms.

    Raises:
        ProtocolError, IdentityError: otherwise.
    """

    def key_of(sender: int, body: memoryview) -> Ed25519PublicKey:
        return directory.check(sender, Advertisement.decode(body).certificate)

    sender, body = wire.open_sealed(data, Kind.ADVERTISEMENT, terms.binding, key_of)
    return sender, Advertisement.decode(body)


def verify_key_set(terms: RoundTerms, directory: Directory, blobs: Iterable[Buffer]) -> KeySet:
    """Check every advertisement and derive the round's numbers.

    Raises:
        ProtocolError: on a wrong signature, a member twice, one public key in two places (a key of one use could
            then stand for another), other terms or another roster, or an impossible size.
        IdentityError: on an unknown, expired or revoked certificate.
    """
    if directory.roster.digest != terms.roster_digest:
        raise ProtocolError("the round names another roster", remedy="fetch the newest roster from the consortium")
    advertised = [verify_advertisement(terms, directory, blob) for blob in blobs]
    ids = [sender for sender, _ in advertised]
    if ids != sorted(set(ids)):
        raise ProtocolError("key set with a member twice or out of order")
    plan(len(ids))
    keys = [key for _, a in advertised for key in (a.encryption_key, a.mask_key)]
    if len(set(keys)) != len(keys):
        raise ProtocolError("one public key stands in two places of the key set", remedy="the round is void")
    digest = hashlib.sha256(b"yoriai/secagg/1/key set\0" + terms.binding.digest)
    for sender, a in advertised:
        digest.update(struct.pack(">H", sender) + hashlib.sha256(a.encode()).digest())
    return KeySet(
        terms=terms,
        advertised=dict(advertised),
        signing_keys={sender: directory.check(sender, a.certificate) for sender, a in advertised},
        total_weight=sum(directory.weight(sender) for sender in ids),
        binding=Binding(terms.run, terms.round_index, digest.digest()),
    )


def verify_choice(key_set: KeySet, data: Buffer) -> tuple[int, frozenset[int]]:
    """A member and the holders it drew, signed over this very key set.

    Raises:
        ProtocolError: on a wrong signature or number, on strangers, or on the member itself among its holders.
    """
    sender, body = key_set.open_sealed(data, Kind.HOLDER_CHOICE)
    drawn = frozenset(wire.decode_sites(body, Kind.HOLDER_CHOICE))
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


def seed_commitment(key_set: KeySet, site: int, seed: SecretBytes) -> bytes:
    """What a site publishes of its self-mask seed, so that a wrongly rebuilt one is noticed: an HKDF output, 32
    bytes."""
    return derive(seed, key_set.binding.context("seed commitment", site)).reveal()


def survivor_digest(survivors: Iterable[int]) -> bytes:
    """SHA-256 of a survivor set, what consistency messages sign together with run, round and key-set digest."""
    return hashlib.sha256(b"yoriai/secagg/1/survivors\0" + wire.encode_sites(survivors)).digest()
