"""A cohort of sites for tests: real keys and certificates, and a coordinator that an attacker may replace by hand."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding
from numpy.typing import NDArray

from yoriai.privacy.identity.certificates import Authority, Trust, fingerprint, make_request
from yoriai.privacy.identity.roster import Directory, Roster, RosterEntry
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.secagg import (
    Advertising,
    FixedPoint,
    Grid,
    Member,
    Opened,
    SitePolicy,
    SiteWindow,
    SlotTerms,
    SumWindow,
    Update,
    WindowTerms,
    advertise,
)
from yoriai.privacy.secagg.fixedpoint import Quantised
from yoriai.privacy.secagg.messages import Binding
from yoriai.privacy.secagg.shamir import Entropy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
OPENING = ("advertise", "sign keys", "share", "hold")
STAGES = (*OPENING, "mask", "consistency", "unmask")


def seeded(label: str) -> Entropy:
    """An entropy source for tests: an AES-CTR stream keyed by a label."""
    stream = Cipher(algorithms.AES(hashlib.sha256(label.encode()).digest()), modes.CTR(bytes(16))).encryptor()
    return lambda n: stream.update(bytes(n))


def signing_key(label: str) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest()))


@cache
def authority(label: str = "ca") -> Authority:
    return Authority.create("federation", signing_key(label), now=NOW - YEAR, valid_for=10 * YEAR)


@cache
def certificate(name: str) -> bytes:
    return authority().sign_request(make_request(name, signing_key(name)), now=NOW - timedelta(days=1), valid_for=YEAR)


def trust(now: datetime = NOW, revocations: bytes | None = None) -> Trust:
    return Trust(authority().certificate.public_bytes(Encoding.DER), revocations, now=now)


def roster(weights: Collection[int], serial: int = 1, ranks: Collection[int | None] = ()) -> Roster:
    names = [f"site-{i:04d}" for i in range(len(weights))]
    given = zip(names, weights, ranks or [None] * len(names), strict=True)
    entries = (RosterEntry(n, fingerprint(certificate(n)).hex(), weight, rank) for n, weight, rank in given)
    return Roster("federation", serial, NOW + YEAR, tuple(entries))


def spend(identity: bytes) -> None:
    """A mark of spent updates that never objects."""


@dataclass
class Cohort:
    """Sites with equal policies, the terms of one window, and those of the slot that is used next."""

    weights: tuple[int, ...]
    n_params: int = 11
    grid: Grid = field(default_factory=lambda: FixedPoint(16, 1.0))
    n_counts: int = 0
    least_survivors: int = 2
    policy: SitePolicy = field(default_factory=lambda: SitePolicy(2, allow_counts=True))
    round_index: int = 3
    number: int = 7
    slots: int = 3
    slot: int = 0
    seed: str = ""
    ranks: tuple[int | None, ...] = ()
    full_rank: int | None = None

    def __post_init__(self) -> None:
        self.directory = Directory(roster(self.weights, ranks=self.ranks), trust())
        self.names = [entry.name for entry in self.directory.roster.sites]
        self.terms = WindowTerms(
            run=b"run-of-16-bytes!", number=self.number, slots=self.slots, job_digest=bytes(32),
            roster_digest=self.directory.roster.digest,
            n_counts=self.n_counts, least_survivors=self.least_survivors, full_rank=self.full_rank,
        )  # fmt: skip
        self.spent: list[bytes] = []

    @property
    def slot_terms(self) -> SlotTerms:
        return SlotTerms(self.slot, self.round_index, bytes(32), self.n_params, self.grid)

    def next_slot(self) -> None:
        """The next round takes the next slot."""
        self.slot, self.round_index = self.slot + 1, self.round_index + 1

    def member(self, i: int) -> Member:
        name = self.names[i]
        entropy = seeded(f"{self.seed}{name}{self.number}:{self.round_index}:{self.slot}")
        return Member(signing_key(name), certificate(name), i, self.directory, entropy, self.policy, threads=1)

    def levels(self, i: int) -> NDArray[np.uint32]:
        rng = np.random.default_rng([i, self.n_params, self.slot])
        return rng.integers(0, self.grid.top, self.n_params, endpoint=True).astype(np.uint32)

    def update(self, i: int) -> Update:
        counts = tuple(100 * i + j for j in range(self.n_counts))
        clipped = i if isinstance(self.grid, FixedPoint) else 0
        return Update(f"update-{i}".encode(), Quantised(self.levels(i), clipped), counts)

    def expected(self, survivors: Collection[int]) -> NDArray[np.uint64]:
        """The plain sum of the weighted levels."""
        total = np.zeros(self.n_params, dtype=np.uint64)
        for i in survivors:
            total += np.uint64(self.weights[i]) * self.levels(i).astype(np.uint64)
        return total


@dataclass
class Round:
    """Drives real sites and a real coordinator; an attacker hooks into `tamper` or stops after a stage."""

    cohort: Cohort
    dropped_after: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Sites that answer nothing any more once that stage is over ("" = from the start)."""
    tamper: Callable[[str, int, bytes], bytes] = lambda stage, site, payload: payload
    """Changes what the coordinator sends to a site after a stage."""

    def __post_init__(self) -> None:
        self.stages: dict[int, object] = {}
        self.windows: dict[int, SiteWindow] = {}
        self.window: SumWindow | None = None
        self.refused: dict[str, str] = {}  # In the opening.
        self.sent: dict[str, dict[int, bytes]] = {}
        self.payloads: dict[str, Mapping[str, bytes]] = {}
        self.coordinator: object = Advertising(self.cohort.directory, self.cohort.terms, threads=1)

    def _gone(self, until: int) -> set[int]:
        over = ("", *STAGES)[: until + 1]
        return {site for stage in over for site in self.dropped_after.get(stage, ())}

    def _answer(self, stage: str, i: int, payload: bytes | None) -> bytes:
        cohort = self.cohort
        if stage == "advertise":
            self.stages[i], message = advertise(cohort.member(i), cohort.terms)
            return message
        if stage == "mask":
            self.stages[i], message = self.ready(i).step(cohort.update(i), cohort.spent.append)
            return message
        reply = self.stages[i].step(payload)
        if stage == "unmask":
            return reply
        self.stages[i], message = reply
        if stage == "hold":
            self.windows[i] = self.stages[i]
        return message

    def binding(self) -> Binding:
        """What messages of the opening are bound to, once keys are signed."""
        return self.coordinator._keys.binding

    def slot_binding(self) -> Binding:
        """What messages of the present slot are bound to."""
        return self.coordinator._keys.slot(self.cohort.slot_terms).binding

    def ready(self, i: int, terms: SlotTerms | None = None) -> object:
        """A site that has taken the slot, under the cohort's terms or others."""
        return self.windows[i].begin(self.cohort.member(i), terms or self.cohort.slot_terms)

    def run(self, until: str = "unmask", since: str = "advertise") -> Opened | None:
        """Run the stages up to and including `until`; the sum, if that is the last one."""
        cohort = self.cohort
        first = STAGES.index(since)
        payloads = self.payloads[STAGES[first - 1]] if first else dict.fromkeys(cohort.names, b"")
        for k, stage in enumerate(STAGES):
            if k < first:
                continue
            gone = self._gone(k)
            replies = self.sent[stage] = {}

            def answers(stage=stage, payloads=payloads, gone=gone, replies=replies) -> Iterator[tuple[str, bytes]]:
                for name, payload in payloads.items():
                    i = cohort.names.index(name)
                    if i not in gone:
                        replies[i] = self._answer(stage, i, payload)
                        yield name, replies[i]

            result = self.coordinator.step(answers())
            if stage == "unmask":
                return result
            if stage == "hold":
                self.refused, self.window = dict(self.coordinator.refused), result
                result = result.begin(cohort.slot_terms), dict.fromkeys(result.members, b"")
            self.coordinator, payloads = result
            payloads = {n: self.tamper(stage, cohort.names.index(n), p) for n, p in payloads.items()}
            self.payloads[stage] = payloads
            if stage == until:
                return None
        return None

    def next(self, dropped_after: Mapping[str, Collection[int]] | None = None, until: str = "unmask") -> Opened | None:
        """Use the window's next slot, whatever became of the last one; who dropped out of that may be back."""
        assert self.window is not None
        self.cohort.next_slot()
        self.dropped_after = dropped_after or {}
        self.coordinator = self.window.begin(self.cohort.slot_terms)
        gone = {self.cohort.names[i] for i in self.dropped_after.get("", ())}
        self.payloads["hold"] = {name: b"" for name in self.window.members if name not in gone}
        return self.run(until, since="mask")

    def payload(self, stage: str, i: int) -> bytes:
        """What the coordinator sent to a site after a stage."""
        return self.payloads[stage][self.cohort.names[i]]


def other_terms(cohort: Cohort, **changes: object) -> WindowTerms:
    return replace(cohort.terms, **changes)
