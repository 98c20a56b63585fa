"""Secure aggregation against Flower's own functions, in one process: `yoriai bench secagg`.

Site: stochastic rounding, key agreement, masks, packing, digest and signature of one update. Coordinator: for each
survivor verification, unpacking and adding; then all secrets rebuilt from shares, and every left-over mask taken off.
The neighbour graph is complete here whatever the number of sites, because that is the hardest case.

The masked updates that the coordinator gets are real and signed, but leave out the masks between two survivors: they
cancel in the sum, the coordinator never touches them, and making them would take ten times as long as the benchmark.
The opened sum is compared with the plain one, bit for bit.
"""

import os
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from yoriai.privacy.identity.certificates import Authority, Trust, fingerprint, make_request
from yoriai.privacy.identity.roster import Directory, Roster, RosterEntry
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.secagg import (
    Advertising,
    FixedPoint,
    Member,
    Opened,
    Quantised,
    SlotTerms,
    Update,
    WindowTerms,
    advertise,
    quantise,
    shamir,
)
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.keyset import KeySet, SlotKeys, seed_commitment, verify_key_set
from yoriai.privacy.secagg.masking import RunningSum, masked_update, own_masks
from yoriai.privacy.secagg.messages import Advertisement, MessageKind
from yoriai.privacy.secagg.opening import left_over_masks
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import coordinate

VALUE_RANGE = 1.0


@dataclass(frozen=True)
class _Party:
    """One site of the benchmark, with its two secrets."""

    member: Member
    secrets: tuple[SecretBytes, SecretBytes]


def federation(sites: int) -> list[Member]:
    """Members of a fresh federation with weight 1 each."""
    now, year = datetime.now(UTC), timedelta(days=365)
    authority = Authority.create("bench", SigningKey.generate(), now=now, valid_for=year)
    names = [f"site-{i:05d}" for i in range(sites)]
    keys = [SigningKey.generate() for _ in names]
    certificates = [
        authority.sign_request(make_request(name, key), now=now, valid_for=year)
        for name, key in zip(names, keys, strict=True)
    ]
    entries = tuple(RosterEntry(n, fingerprint(c).hex()) for n, c in zip(names, certificates, strict=True))
    trust = Trust(authority.certificate.public_bytes(Encoding.DER), None, now=now)
    directory = Directory(Roster("bench", 1, now + year, entries), trust)
    return [Member(keys[i], certificates[i], i, directory, os.urandom) for i in range(sites)]


def window_terms(members: list[Member], slots: int = 1) -> WindowTerms:
    """Terms of a fresh run's first window."""
    return WindowTerms(os.urandom(16), 0, slots, bytes(32), members[0].directory.roster.digest)


def slot_terms(params: int, bits: int, slot: int = 0) -> SlotTerms:
    """Terms of the slot that a round of that number takes."""
    return SlotTerms(slot, slot, bytes(32), params, FixedPoint(bits, VALUE_RANGE))


def _parties(members: list[Member], slot: SlotTerms) -> tuple[SlotKeys, list[_Party]]:
    """The one slot of a verified key set, and the sites with their secrets."""
    blobs, parties, terms = [], [], window_terms(members)
    for member in members:
        seed, mask = SecretBytes(os.urandom(32)), SecretBytes(os.urandom(32))
        public = X25519PrivateKey.from_private_bytes(mask.reveal()).public_key().public_bytes_raw()
        encryption = X25519PrivateKey.generate().public_key().public_bytes_raw()
        body = Advertisement(encryption, (public,), member.certificate).encode()
        blobs.append(wire.seal(MessageKind.ADVERTISEMENT, terms.binding, member.position, body, member.key))
        parties.append(_Party(member, (seed, mask)))
    return verify_key_set(terms, members[0].directory, blobs).slot(slot), parties


class _Clock:
    """Seconds of wall time and of processor time over all threads: on a busy machine they tell what the first hides."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *exc: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


def _site(
    keys: SlotKeys, party: _Party, values: Any, neighbours: int, grid: FixedPoint
) -> tuple[_Clock, bytes, Quantised]:
    """Time, message and levels of one site with that many neighbours."""
    clock = _Clock()
    with clock:
        quantised = quantise(values, grid, os.urandom)
        partners = [site for site in keys.window.ids if site != party.member.position][:neighbours]
        masks = own_masks(keys, party.member, party.secrets, partners)
        message = masked_update(keys, party.member, Update(os.urandom(16), quantised), masks)
    return clock, message, quantised


def _coordinator(keys: SlotKeys, parties: list[_Party], dropped: int, quantised: Quantised) -> tuple[_Clock, bool]:
    """Time of the coordinator, and whether the opened sum equals the plain one."""
    ids, threshold = keys.window.ids, keys.window.plan.threshold
    survivors, gone = frozenset(ids[dropped:]), ids[:dropped]
    graph = {site: frozenset(ids) - {site} for site in ids}
    commitments = {p.member.position: seed_commitment(keys.window, 0, p.member.position, p.secrets[0]) for p in parties}
    released = {}
    for site, party in enumerate(parties):
        points = tuple(coordinate(holder) for holder in ids if holder in survivors and holder != site)
        secret = party.secrets[0 if site in survivors else 1]
        released[site] = shamir.split(secret, threshold, points, os.urandom)

    def arriving() -> Iterator[bytes]:
        for site in sorted(survivors):
            masks = own_masks(keys, parties[site].member, parties[site].secrets, gone)
            yield masked_update(keys, parties[site].member, Update(os.urandom(16), quantised), masks)

    clock, total = _Clock(), RunningSum(keys, 0)
    for message in arriving():
        with clock:
            total.add(keys.open_sealed(message, MessageKind.MASKED_UPDATE)[1])
    with clock:
        total.remove(left_over_masks(keys, graph, commitments, survivors, released))
    # All sites hold one update here, so the plain sum is a multiple of it.
    plain = quantised.levels.astype(np.uint64) * np.uint64(len(survivors))
    exact = bool(np.array_equal(total.words, plain)) and int(total.tail[0]) == quantised.clipped * len(survivors)
    return clock, exact


def bench_secagg(
    params: int = 10_000_000, sites: int = 100, dropped: int = 10, neighbours: int = 10, bits: int = 16
) -> dict[str, Any]:
    """Measure one site and the coordinator, then Flower's functions for the same work.

    Args:
        params: length of an update.
        sites: members of the key set, all of weight 1; the coordinator's graph is complete.
        dropped: sites that have shared but send no masked update.
        neighbours: neighbours of the measured site.
        bits: bits a value.

    Returns:
        Seconds, bytes a parameter, peak memory of Yoriai's part, and Flower's figures with the ratio of theirs to ours.
        The site's figure is the best of three runs on both sides.
    """
    members = federation(sites)
    keys, parties = _parties(members, slot_terms(params, bits))
    values = np.random.default_rng(0).normal(0.0, 0.2, params).astype(np.float32)
    runs = [_site(keys, parties[0], values, neighbours, FixedPoint(bits, VALUE_RANGE)) for _ in range(3)]
    site, message, quantised = min(runs, key=lambda run: run[0].wall)
    upload = len(message) / params
    del runs, message
    coordinator, exact = _coordinator(keys, parties, dropped, quantised)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours = {"upload_bytes_per_param": upload, "site_seconds": site.wall, "coordinator_seconds": coordinator.wall}

    # Flower is loaded only here, so that its memory is not in our peak.
    from yoriai.simulations.bench.secagg_flower import flower_coordinator, flower_site

    flower_seconds, sent = min((flower_site(values, neighbours, bits) for _ in range(3)), key=lambda run: run[0])
    other = flower_coordinator(sent, sites, dropped, sample=5)
    theirs = {
        "upload_bytes_per_param": sum(map(len, sent)) / params,
        "site_seconds": flower_seconds,
        "coordinator_seconds": other["seconds"],
    }
    return {
        "params": params, "sites": sites, "dropped": dropped, "neighbours": neighbours, "bits": bits, **ours,
        "peak_rss_mb": peak, "word_bits": keys.word_bits, "exact": exact, "cores": os.cpu_count(),
        "site_cpu_seconds": site.cpu, "coordinator_cpu_seconds": coordinator.cpu,
        "flower": {**theirs, "coordinator_reckoned_from": other["reckoned_from"]},
        "ratio": {name: theirs[name] / ours[name] for name in ours},
    }  # fmt: skip


def bench_round(
    params: int = 1_000_000, sites: int = 1000, dropped: int = 50, bits: int = 16, window: int = 1
) -> dict[str, Any]:
    """Run a whole window of real sites and a real coordinator, one after the other in this process.

    Args:
        params: length of an update.
        sites: members of the key set, all of weight 1.
        dropped: sites that send no masked update, the same in every round.
        bits: bits a value.
        window: slots of the window, one round each.

    Returns:
        Per stage, a slot's as the mean over the rounds: the coordinator's seconds, the mean seconds of a site, and the
        mean bytes up and down a site. For a round, its share of the opening included: exchanges, seconds of all parties
        together, and bytes of a site. Whether every opened sum is exact; the sizes of the graph.
    """
    drive = _Drive(params, sites, dropped, bits=bits, window=window)
    stages: dict[str, dict[str, float]] = {stage: drive.run(stage) for stage in _OPENING}
    plain = drive.common.levels.astype(np.uint64) * np.uint64(sites - dropped)
    exact, rounds = True, []
    for slot in range(window):
        drive.begin(slot)
        rounds.append({stage: drive.run(stage) for stage in _IN_SLOT})
        opened: Opened = drive.coordinator
        exact &= bool(np.array_equal(opened.levels, plain)) and len(opened.survivors) == sites - dropped
    for stage in _IN_SLOT:
        stages[stage] = {key: sum(one[stage][key] for one in rounds) / window for key in rounds[0][stage]}
    keys: KeySet = drive.window.keys
    sizes = {"holders": keys.plan.holders, "threshold": keys.plan.threshold}
    asked = {"params": params, "sites": sites, "dropped": dropped, "window": window}
    return {**asked, "exact": exact, **sizes, "stages": stages, "round": _share(stages, sites, window)}


_OPENING = ("advertise", "sign keys", "share", "hold")
_IN_SLOT = ("mask", "consistency", "unmask")


def _share(stages: Mapping[str, Mapping[str, float]], sites: int, window: int) -> dict[str, float]:
    """What one round costs: its own stages, and its share of the window's opening."""

    def cost(*keys: str) -> float:
        opening, slot = (sum(stages[stage][key] for stage in part for key in keys) for part in (_OPENING, _IN_SLOT))
        return opening / window + slot

    return {
        "exchanges": len(_OPENING) / window + len(_IN_SLOT),
        "seconds": cost("coordinator_seconds") + sites * cost("site_seconds"),
        "site_bytes": cost("bytes_up", "bytes_down"),
    }


class _Drive:
    """A window in which all sites hold one update, and some never send it masked."""

    def __init__(self, params: int, sites: int, dropped: int, *, bits: int, window: int) -> None:
        members = federation(sites)
        rng = np.random.default_rng(0)
        self._terms, self._params, self._bits = window_terms(members, window), params, bits
        self._members = {member.directory.name(member.position): member for member in members}
        self._gone = {list(self._members)[i] for i in rng.permutation(sites)[:dropped]}
        self._stages: dict[str, Any] = {}
        self._windows: dict[str, Any] = {}
        self._payloads: Mapping[str, bytes] = dict.fromkeys(self._members, b"")
        self.common = Quantised(rng.integers(0, 2**bits, params, dtype=np.uint32), clipped=1)
        self.coordinator: Any = Advertising(members[0].directory, self._terms)
        self.window: Any = None
        self._slot = slot_terms(params, bits)

    def begin(self, slot: int) -> None:
        """Ask for masked updates in a slot."""
        self._slot = slot_terms(self._params, self._bits, slot)
        self.coordinator = self.window.begin(self._slot)
        self._payloads = dict.fromkeys(self.window.members, b"")

    def run(self, stage: str) -> dict[str, float]:
        """One stage; the coordinator's next one takes the place of this one."""
        asked, down, spent, up = len(self._payloads), sum(map(len, self._payloads.values())), 0.0, 0

        def answers() -> Iterator[tuple[str, bytes]]:
            nonlocal spent, up
            for name, payload in self._payloads.items():
                if stage == "mask" and name in self._gone:
                    continue
                start = time.perf_counter()
                reply = self._answer(stage, name, payload)
                spent += time.perf_counter() - start
                up += len(reply)
                yield name, reply

        start = time.perf_counter()
        result = self.coordinator.step(answers())
        seconds = time.perf_counter() - start - spent
        if stage == "hold":
            self.window, self._windows = result, self._stages.copy()
        elif stage == "unmask":
            self.coordinator = result
        else:
            self.coordinator, self._payloads = result
        means = {"site_seconds": spent / asked, "bytes_up": up / asked, "bytes_down": down / asked}
        return {"coordinator_seconds": seconds, **means}

    def _answer(self, stage: str, name: str, payload: bytes) -> bytes:
        reply: bytes
        if stage == "advertise":
            self._stages[name], reply = advertise(self._members[name], self._terms)
        elif stage == "mask":
            ready = self._windows[name].begin(self._members[name], self._slot)
            self._stages[name], reply = ready.step(Update(os.urandom(16), self.common), lambda identity: None)
        elif stage == "unmask":
            reply = self._stages[name].step(payload)
        else:
            self._stages[name], reply = self._stages[name].step(payload)
        return reply
