"""The coordinator: offers the job, runs its rounds over a Transport, folds updates into the adapter, keeps checkpoints.

It knows the job, the roster and the adapters. It has no base model and sees no record; a simulation and a deployment
run this same code over different transports.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import AdapterError, CheckpointError, RoundError, WireError
from yoriai.server.registry import Checkpoint, Registry, RoundRecord
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.rule import Rule
from yoriai.strategies.server_opt import OptState, server_optimizer

_LONGEST_REASON = 300
_UNEXPECTED = "an unexpected kind of reply"
_STRANGE = "the reply belongs to another site, round or run"


class Transport(Protocol):
    """How bytes get to sites and back."""

    def sites(self) -> Sequence[str]:
        """Names of the sites that can be reached now."""
        ...

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """Send each site its payload and gather the replies by site; one that fails or is late has none."""
        ...


@dataclass(frozen=True)
class Deadlines:
    """How long the coordinator waits for the sites' replies in each stage."""

    offer_s: float = 3600.0
    train_s: float = 3600.0


class Coordinator:
    """One run of one job.

    Args:
        job: with task kind and labels filled in.
        roster: the weights of the sites.
        base_digest: of the base model that sites must have.
        noise_multiplier: calibrated for the whole job; None without privacy.
        rule: as the job names it.
        transport: to the sites.
        registry: where versions and checkpoints go.
        run_id: names the run in ledgers; the same after a resume.
    """

    def __init__(
        self,
        job: JobConfig,
        roster: wire.Roster,
        *,
        base_digest: str,
        noise_multiplier: float | None,
        rule: Rule,
        transport: Transport,
        registry: Registry,
        run_id: str,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._job, self._roster, self._rule = job, roster, rule
        self._base_digest, self._noise_multiplier = base_digest, noise_multiplier
        self._transport, self._registry, self._run_id = transport, registry, run_id
        self._deadlines = deadlines or Deadlines()
        federation = job.federation
        self._optimizer = server_optimizer(federation.server_optimizer, momentum=federation.server_momentum)
        # Every site of the roster that was offered the job is in one of the first two; those that said no in words
        # are in the third as well, and are not asked again.
        self._accepted: set[str] = set()
        self._absent: dict[str, str] = {}
        self._declined: set[str] = set()
        # Of the messages since the last record, by site.
        self._bytes_up: Counter[str] = Counter()
        self._bytes_down: Counter[str] = Counter()

    def run(
        self,
        initial: AdapterState,
        *,
        on_round: Callable[[Checkpoint], None] | None = None,
        on_offer: Callable[[Mapping[str, str]], None] | None = None,
    ) -> Checkpoint:
        """Run the job to its end, from the last checkpoint when there is one. A finished run asks nothing of a site.

        Args:
            initial: the adapter before round 0, fixed factors included; not used when there is a checkpoint.
            on_round: called after each stored round.
            on_offer: called after each offer with the sites that do not take part so far, and why.

        Raises:
            RoundError: fewer than federation.min_sites took part; the finished rounds stay stored.
            CheckpointError: the stored run belongs to another job, or cannot be written.
        """
        digest = job_digest(self._job, self._base_digest)
        checkpoint = last_checkpoint(self._registry, digest, self._run_id)
        if checkpoint is None:
            checkpoint = Checkpoint(self._run_id, digest, 0, initial)
        while checkpoint.next_round < self._job.federation.rounds:
            if self._invite(checkpoint) and on_offer is not None:
                on_offer(dict(self._absent))
            checkpoint = self._round(checkpoint)
            self._registry.save(checkpoint)
            if on_round is not None:
                on_round(checkpoint)
        return checkpoint

    def _invite(self, checkpoint: Checkpoint) -> bool:
        """Offer the job to every site that has not answered an offer yet: all at first, then those out of reach."""
        unheard = sorted(set(self._roster.weights) - self._accepted - self._declined)
        reachable = set(self._transport.sites()) if unheard else set()
        self._absent.update({site: "not connected" for site in unheard if site not in reachable})
        self._offer(checkpoint, [site for site in unheard if site in reachable])
        return bool(unheard)

    def _offer(self, checkpoint: Checkpoint, sites: Sequence[str]) -> None:
        """Offer the job to these sites and note who accepts, who declines and who cannot be understood."""
        offer = wire.JobOffer(
            run_id=self._run_id,
            job=self._job.model_dump(mode="json", by_alias=True),
            roster=self._roster,
            base_digest=self._base_digest,
            noise_multiplier=self._noise_multiplier,
            payload=checkpoint.adapter.to_bytes(),
        )
        replies, faults = self._ask("offer", sites, offer, self._deadlines.offer_s)
        for site in sites:
            reply = replies.get(site)
            self._accepted.discard(site)
            self._absent.pop(site, None)
            if isinstance(reply, wire.Acceptance):
                self._accepted.add(site)
            elif isinstance(reply, wire.Refusal):
                self._declined.add(site)
                self._absent[site] = _one_line(reply.reason)
            else:
                self._absent[site] = faults.get(site, _UNEXPECTED)

    def _round(self, checkpoint: Checkpoint) -> Checkpoint:
        """Train one round at the sampled sites and fold the mean of their updates into the adapter."""
        started = time.monotonic()
        chosen = self._sample(checkpoint.next_round)
        refused = {s: reason for s, reason in self._absent.items() if s in chosen or s in self._declined}
        asked = [site for site in chosen if site in self._accepted]
        # Nobody's budget is charged for a round that is lost already.
        self._require_enough(checkpoint, f"{len(asked)} that accepted the job", len(asked), refused)
        updates, missing = self._collect(checkpoint, asked)
        refused |= missing
        self._require_enough(checkpoint, f"{len(updates)} updates", len(updates), refused)
        weights = self._roster.weights
        mean_update = weighted_mean({site: (weights[site], update) for site, update in updates.items()})
        adapter, state = self._fold(checkpoint, mean_update)
        record = RoundRecord(
            round_index=checkpoint.next_round,
            answered=tuple(sorted(updates)),
            refused=tuple(sorted(refused.items())),
            update_norm=float(np.linalg.norm(mean_update.flatten().astype(np.float64))),
            seconds=time.monotonic() - started,
            bytes_up=dict(self._bytes_up),
            bytes_down=dict(self._bytes_down),
            adapter_digest=adapter.digest(),
        )
        self._bytes_up.clear()
        self._bytes_down.clear()
        return replace(
            checkpoint,
            next_round=checkpoint.next_round + 1,
            adapter=adapter,
            optimizer_state=state.to_bytes(),
            rounds=(*checkpoint.rounds, record),
        )

    def _fold(self, checkpoint: Checkpoint, mean_update: AdapterState) -> tuple[AdapterState, OptState]:
        """One step of the server optimizer around the rule."""
        federation = self._job.federation
        state = (
            OptState.from_bytes(checkpoint.optimizer_state)
            if checkpoint.optimizer_state
            else self._optimizer.init(mean_update)
        )
        rate = federation.server_learning_rate * schedule_factor(
            federation.schedule, checkpoint.next_round, federation.rounds
        )
        step, state = self._optimizer.step(mean_update, state, learning_rate=rate)
        return self._rule.combine(checkpoint.adapter, step, checkpoint.next_round), state

    def _sample(self, round_index: int) -> list[str]:
        """The sites of a round, in order; those that declined the job are passed over."""
        federation, roster = self._job.federation, self._roster.weights
        wanted = max(federation.min_sites, round(federation.participation * len(roster)))
        return sample_sites(federation.seed, round_index, set(roster) - self._declined, wanted)

    def _require_enough(self, checkpoint: Checkpoint, found: str, count: int, refused: Mapping[str, str]) -> None:
        needed = self._job.federation.min_sites
        if count < needed:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(refused.items()))
            raise RoundError(
                f"round {checkpoint.next_round + 1} has too few sites",
                found=f"{found} ({reasons})" if reasons else found,
                expected=f"at least {needed} (federation.min_sites)",
                remedy="see to the sites named, then resume",
            )

    def _collect(self, checkpoint: Checkpoint, asked: Sequence[str]) -> tuple[dict[str, AdapterState], dict[str, str]]:
        """Updates by site, and the reason of every site asked that sent none."""
        replies, missing = self._train(checkpoint, asked)
        forgotten = [s for s, r in replies.items() if isinstance(r, wire.Refusal) and r.unknown_job]
        if forgotten:  # A site that was started anew no longer knows the job; it may look at the offer again.
            self._offer(checkpoint, forgotten)
            missing |= {site: self._absent.get(site, "") for site in forgotten}
            again, faults = self._train(checkpoint, [site for site in forgotten if site in self._accepted])
            replies = {site: reply for site, reply in replies.items() if site not in forgotten} | again
            missing |= faults
        updates = {}
        for site, reply in replies.items():
            try:
                updates[site] = self._update(checkpoint, reply)
            except (WireError, AdapterError) as error:
                missing[site] = _one_line(str(error))
        return updates, {site: reason for site, reason in missing.items() if site not in updates}

    def _train(self, checkpoint: Checkpoint, sites: Sequence[str]) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        moving = {f for i in range(checkpoint.next_round + 1) for f in self._rule.trainable(i)}
        request = wire.TrainRequest(
            run_id=self._run_id,
            round_index=checkpoint.next_round,
            adapter_digest=checkpoint.adapter.digest(),
            payload=checkpoint.adapter.select(moving).to_bytes(),
        )
        return self._ask("train", sites, request, self._deadlines.train_s)

    def _update(self, checkpoint: Checkpoint, reply: wire.Reply) -> AdapterState:
        """The update in a reply, checked: of this round, finite, with the trained factors' names and shapes."""
        if isinstance(reply, wire.Refusal):
            raise WireError(reply.reason)
        if not isinstance(reply, wire.PlainUpdate):
            raise WireError(_UNEXPECTED)
        if reply.round_index != checkpoint.next_round:
            raise WireError(_STRANGE)
        update = AdapterState.from_bytes(reply.payload)
        update.check_finite()
        expected = checkpoint.adapter.select(self._rule.trainable(checkpoint.next_round))
        if {n: t.shape for n, t in update.tensors.items()} != {n: t.shape for n, t in expected.tensors.items()}:
            raise AdapterError("the update's factors are not those that train in this round")
        return update

    def _ask(
        self, stage: str, sites: Sequence[str], message: wire.Message, timeout_s: float
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """Send these sites one message: the replies that can be read, and why the other sites have none."""
        data = wire.encode(message)
        answers = self._transport.exchange(stage, dict.fromkeys(sites, data), timeout_s) if sites else {}
        replies, faults = {}, {}
        for site in sites:
            self._bytes_down[site] += len(data)
            self._bytes_up[site] += len(answers.get(site, b""))
            if site not in answers:
                faults[site] = "no reply in time"
                continue
            try:
                replies[site] = self._read(site, answers[site])
            except WireError as error:
                faults[site] = str(error)
        return replies, faults

    def _read(self, site: str, data: bytes) -> wire.Reply:
        reply = wire.decode(data)
        if not isinstance(reply, wire.Reply):
            raise WireError(_UNEXPECTED)
        # A site that could not read the question does not know which run it was of.
        known = (self._run_id, "") if isinstance(reply, wire.Refusal) else (self._run_id,)
        if reply.site != site or reply.run_id not in known:
            raise WireError(_STRANGE)
        return reply


def last_checkpoint(registry: Registry, digest: str, run_id: str) -> Checkpoint | None:
    """What a run goes on from; None when nothing is stored.

    Raises:
        CheckpointError: the stored run belongs to another job, or is damaged.
    """
    stored = registry.load()
    if stored is not None and (stored.job_digest, stored.run_id) != (digest, run_id):
        raise CheckpointError(
            "the stored run belongs to another job",
            remedy="resume with the job and base model it was started with, or choose another folder",
        )
    return stored


def sample_sites(seed: int, round_index: int, sites: Collection[str], wanted: int) -> list[str]:
    """Up to `wanted` of the sites, sorted; a function of its arguments alone, so the same after a resume.

    Each site's turn is a hash of its own, so that one that drops out changes no other site's turn but its substitute's.
    """

    def turn(site: str) -> bytes:
        return hashlib.sha256(f"{seed}:{round_index}:{site}".encode()).digest()

    return sorted(sorted(sites, key=turn)[:wanted])


def schedule_factor(schedule: str, round_index: int, rounds: int) -> float:
    """Share of the server's learning rate in a round: 1 in the first, towards 0 at the end unless constant."""
    if schedule == "linear":
        return 1.0 - round_index / rounds
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * round_index / rounds))
    return 1.0


def job_digest(job: JobConfig, base_digest: str) -> str:
    """SHA-256 (hex) over the base and every setting that bears on the result; those in [speed] do not."""
    settings = job.model_dump(mode="json", by_alias=True, exclude={"speed"})
    return hashlib.sha256(json.dumps([base_digest, settings], sort_keys=True).encode()).hexdigest()


def _one_line(text: str) -> str:
    """A site's words as they may stand in a log or on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_REASON])
