"""What a round of secure aggregation costs as a federation grows: one site, and the coordinator, of a window of n.

    python -m yoriai.simulations.bench.secagg_scale 100 1000 > scale.json

The site is a real one and so is the coordinator: they verify, share, mask, sign and open as in any round, and the
opened sum is compared with the plain one, bit for bit. What the other n - 1 sites send is real where one of the two
reads it, and made without their own work: else n sites would each verify n others. So a ciphertext that is for one of
those is random bytes, and their masks with one another are left out, since they cancel. What has been verified once is
forgotten before each step, for the parties have a process each elsewhere.

A window takes up to 2,048 sites. Beyond that `sparse_plan` tells by the same bounds which graph there would be, and
`tolerated` what groups that are drawn by lot make of a share of colluders.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy.stats import hypergeom

from yoriai.privacy.identity import certificates, signing_key
from yoriai.privacy.secagg import Advertising, Member, Quantised, Update, advertise, shamir
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import (
    CORRECTNESS_LOG2,
    DROPPED_FRACTION,
    PRIVACY_LOG2,
    draw_holders,
    failure_bounds,
    neighbours,
)
from yoriai.privacy.secagg.keyset import (
    KeySet,
    SlotKeys,
    seed_commitment,
    survivor_digest,
    verify_choice,
    verify_key_set,
)
from yoriai.privacy.secagg.masking import masked_update, own_masks
from yoriai.privacy.secagg.messages import Advertisement, MessageKind, ReleasedShares, SealedShares, ShareKind
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import coordinate, open_shares, seal_shares
from yoriai.simulations.bench.secagg import federation, slot_terms, window_terms

_Result = TypeVar("_Result")
_MEASURED = 0  # Position of the site that is real.


class _Others:
    """The sites that are not measured: their secrets, and the messages that they would send."""

    def __init__(self, members: list[Member]) -> None:
        self._members = members[_MEASURED + 1 :]
        self.names = {member.position: member.directory.name(member.position) for member in members}
        self.secrets = {m.position: (SecretBytes(os.urandom(32)), SecretBytes(os.urandom(32))) for m in self._members}
        self._encryption = {m.position: X25519PrivateKey.generate() for m in self._members}

    def send(
        self, kind: MessageKind, binding: wire.Binding, body_of: Callable[[Member], bytes], among: Iterable[int] = ()
    ) -> dict[str, bytes]:
        """A signed message of each of them, or of those among the positions."""
        chosen = frozenset(among)
        return {
            self.names[m.position]: wire.seal(kind, binding, m.position, body_of(m), m.key)
            for m in self._members
            if not chosen or m.position in chosen
        }

    def advertisement(self, member: Member) -> bytes:
        """Its two public keys and its certificate."""
        mask = X25519PrivateKey.from_private_bytes(self.secrets[member.position][1].reveal())
        keys = (self._encryption[member.position], mask)
        encryption, masking = (key.public_key().public_bytes_raw() for key in keys)
        return Advertisement(encryption, (masking,), member.certificate).encode()

    def shares(self, keys: KeySet, graph: Mapping[int, frozenset[int]], member: Member) -> bytes:
        """Real ciphertexts of one that chose the measured site, which opens its own; random ones of any other."""
        own, holders = member.position, graph[member.position]
        if _MEASURED in holders:
            pair = (self.secrets[own],)
            sealed = seal_shares(keys, member, self._encryption[own], pair, holders)
        else:
            sealed = {holder: os.urandom(wire.sealed_bytes(1)) for holder in holders}
        return SealedShares((seed_commitment(keys, 0, own, self.secrets[own][0]),), sealed).encode()

    def update(
        self, keys: SlotKeys, graph: Mapping[int, frozenset[int]], gone: frozenset[int], common: Quantised, own: Member
    ) -> bytes:
        """A masked update whose masks are those that do not cancel between two of these sites."""
        partners = neighbours(own.position, graph) & (gone | {_MEASURED})
        masks = own_masks(keys, own, self.secrets[own.position], partners)
        return masked_update(keys, own, Update(os.urandom(16), common), masks)

    def released(
        self, keys: KeySet, graph: Mapping[int, frozenset[int]], alive: frozenset[int], shares: bytes
    ) -> Mapping[int, dict[int, tuple[ShareKind, SecretBytes]]]:
        """By holder, the share of each secret that it holds: of the measured site's as that one sealed it."""
        held: dict[int, dict[int, tuple[ShareKind, SecretBytes]]] = {site: {} for site in alive - {_MEASURED}}
        for owner, (seed, mask) in self.secrets.items():
            kind, secret = (ShareKind.SEED, seed) if owner in alive else (ShareKind.MASK_KEY, mask)
            holders = sorted(graph[owner] & held.keys())
            points = tuple(map(coordinate, holders))
            split = shamir.split(secret, keys.plan.threshold, points, os.urandom)
            for holder, point in zip(holders, points, strict=True):
                held[holder][owner] = (kind, split[point])
        members = {member.position: member for member in self._members}
        _, body = keys.open_sealed(shares, MessageKind.SEALED_SHARES)
        for holder, sealed in SealedShares.decode(body, 1).sealed.items():
            if holder in held:
                opened = open_shares(keys, members[holder], self._encryption[holder], {_MEASURED: sealed})
                ((seed, _),) = opened[_MEASURED]
                held[holder][_MEASURED] = (ShareKind.SEED, seed)
        return held


class _Costs:
    """Processor seconds and bytes of the measured site and of the coordinator, by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    def of(self, party: str, stage: str, step: Callable[[], _Result]) -> _Result:
        """Run a step of a party that has verified nothing so far."""
        _forget()
        start = time.process_time()
        result = step()
        self.stages.setdefault(stage, {})[f"{party}_cpu_s"] = time.process_time() - start
        return result

    def moved(self, stage: str, up: bytes, down: bytes) -> None:
        """What the measured site sent in a stage, and was sent for it."""
        self.stages[stage] |= {"bytes_up": len(up), "bytes_down": len(down)}


def _forget() -> None:
    """Empty the memos of what was verified: elsewhere each party has a process of its own."""
    signing_key._verified.cache_clear()
    certificates._end_certificate.cache_clear()


class _Drive:
    """A window of one round: the real site and the real coordinator step by step, next to what the others send."""

    def __init__(self, sites: int, params: int, bits: int) -> None:
        self.members, self.costs = federation(sites), _Costs()
        self.terms, self.slot = window_terms(self.members), slot_terms(params, bits)
        self.site, self.others = self.members[_MEASURED], _Others(self.members)
        self.common = Quantised(np.random.default_rng(0).integers(0, 2**bits, params, dtype=np.uint32), clipped=1)
        self.gone = frozenset(range(sites - max(1, sites // 20), sites))
        self.alive = frozenset(range(sites)) - self.gone
        self.coordinator: Any = Advertising(self.site.directory, self.terms)
        self.stage: Any = None
        self._payloads: Mapping[str, bytes] = {}

    def exchange(
        self, label: str, step: Callable[[bytes], Any], others: Callable[[], dict[str, bytes]], *, counts: bool = True
    ) -> tuple[bytes, dict[str, bytes]]:
        """The site's step, then the coordinator's; the reply, and all of them. One that does not count is dropped."""
        name = self.others.names[_MEASURED]
        asked = self._payloads.get(name, b"")
        found = self.costs.of("site", label, lambda: step(asked))
        self.stage, reply = found if isinstance(found, tuple) else (None, found)
        self.costs.moved(label, reply, asked)
        replies = others() | ({name: reply} if counts else {})
        result = self.costs.of("coordinator", label, partial(self.coordinator.step, sorted(replies.items())))
        self.coordinator, self._payloads = result if isinstance(result, tuple) else (result, {})
        return reply, replies

    def open(self) -> tuple[KeySet, Mapping[int, frozenset[int]], bytes]:
        """Open the window: its keys, its graph, and the site's sealed shares."""
        others, kinds, terms = self.others, MessageKind, self.terms
        made = partial(others.send, kinds.ADVERTISEMENT, terms.binding, others.advertisement)
        _, sent = self.exchange("advertise", lambda _: advertise(self.site, terms), made)
        keys = verify_key_set(terms, self.site.directory, [sent[name] for _, name in sorted(others.names.items())])
        graph = {i: frozenset(draw_holders(i, keys.ids, os.urandom)) for i in keys.ids}
        made = partial(others.send, kinds.HOLDER_CHOICE, keys.binding, lambda m: wire.encode_sites(graph[m.position]))
        choice, _ = self.exchange("sign keys", self.stage.step, made)
        graph[_MEASURED] = verify_choice(keys, choice)[1]
        made = partial(others.send, kinds.SEALED_SHARES, keys.binding, lambda m: others.shares(keys, graph, m))
        shares, _ = self.exchange("share", self.stage.step, made)
        self.exchange("hold", self.stage.step, partial(others.send, kinds.HOLDING, keys.binding, lambda m: b""))
        return keys, graph, shares

    def round(self, keys: KeySet, graph: Mapping[int, frozenset[int]], shares: bytes) -> None:
        """Use the window's slot: mask, agree, open."""
        window, others, slot = self.stage, self.others, keys.slot(self.slot)
        self.coordinator, living = self.coordinator.begin(self.slot), self.alive - {_MEASURED}

        def mask(_: bytes) -> tuple[Any, bytes]:
            ready = window.begin(self.site, self.slot)
            masked: tuple[Any, bytes] = ready.step(Update(os.urandom(16), self.common), lambda identity: None)
            return masked

        def updates() -> dict[str, bytes]:
            made = {i: others.update(slot, graph, self.gone, self.common, self.members[i]) for i in living}
            return {others.names[i]: message for i, message in made.items()}

        self.exchange("mask", mask, updates)
        digest = survivor_digest(self.alive)
        signed = partial(others.send, MessageKind.CONSISTENCY, slot.binding, lambda m: digest, living)
        self.exchange("consistency", self.stage.step, signed)
        held = others.released(keys, graph, self.alive, shares)
        made = partial(
            others.send, MessageKind.RELEASED_SHARES, slot.binding,
            lambda m: ReleasedShares(held[m.position]).encode(), living,
        )  # fmt: skip
        self.exchange("unmask", self.stage.step, made, counts=False)  # It holds shares of what was split once more.


def measure(sites: int, params: int = 1000, bits: int = 16) -> dict[str, Any]:
    """A window of one round with so many sites, of which a twentieth drops out after it has shared.

    Args:
        sites: 3 to 2,048, of weight 1 each.
        params: length of an update; what masks cost grows with it and with the neighbours.
        bits: bits a value.

    Returns:
        The sizes of the graph; by stage the site's and the coordinator's processor seconds, and the site's bytes; their
        sums over the round; whether the opened sum is exact.
    """
    drive = _Drive(sites, params, bits)
    keys, graph, shares = drive.open()
    drive.round(keys, graph, shares)
    plain = drive.common.levels.astype(np.uint64) * np.uint64(len(drive.alive))
    stages = drive.costs.stages
    figures = ("site_cpu_s", "coordinator_cpu_s", "bytes_up", "bytes_down")
    return {
        "sites": sites,
        "params": params,
        "holders": keys.plan.holders,
        "threshold": keys.plan.threshold,
        "neighbours": len(neighbours(_MEASURED, graph)),
        "exact": bool(np.array_equal(drive.coordinator.levels, plain)),
        "stages": stages,
        "round": {key: sum(stage[key] for stage in stages.values()) for key in figures},
    }


def sparse_plan(sites: int) -> tuple[int, int]:
    """Holders and threshold by the bounds of `graph.py` for any number of sites: least holders, largest threshold."""

    def threshold(holders: int) -> int:
        """The largest that leaves enough holders alive, but for a chance of 2^-30."""
        dropped = math.ceil(DROPPED_FRACTION * sites)
        short = hypergeom(sites - 1, sites - 1 - dropped, holders).logcdf(np.arange(holders + 1) - 1)
        return int(np.flatnonzero((short + math.log(sites)) / math.log(2) <= CORRECTNESS_LOG2).max())

    def holds(holders: int) -> bool:
        bounds = failure_bounds(sites, holders, threshold(holders))
        return max(bounds.colluders, bounds.disconnected) <= PRIVACY_LOG2

    low, high = 0, min(sites - 1, 512)  # Not enough, enough.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    # Thresholds are whole numbers, so that a few holders fewer may do where one fewer does not.
    least = next(holders for holders in range(max(1, high - 4), high + 1) if holds(holders))
    return least, threshold(least)


def tolerated(sites: int, group: int) -> float:
    """The largest share of colluders of which no group drawn by lot gets more than a third, but for 2^-40."""
    groups = sites // group

    def bad(colluders: int) -> float:
        over = hypergeom(sites, colluders, group).logsf(group // 3)
        return float((over + math.log(groups)) / math.log(2))

    low, high = 0, sites // 3 + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bad(middle) <= PRIVACY_LOG2 else (low, middle)
    return low / sites


if __name__ == "__main__":
    json.dump([measure(int(sites)) for sites in sys.argv[1:]], sys.stdout, indent=1)
