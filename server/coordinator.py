"""The coordinator: offers the job, runs its rounds over a Transport, folds updates into the adapter, keeps checkpoints.

It knows the job, the roster and the adapters. It has no base model and sees no record; a simulation and a deployment
run this same code over different transports.
"""

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import AdapterError, CheckpointError, RoundError, WireError
from yoriai.server.registry import Checkpoint, Registry, RoundRecord
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.rule import Rule
from yoriai.strategies.server_opt import OptState, server_optimizer


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
        self._initial_payload = b""
        self._accepted: set[str] = set()
        self._refused: dict[str, str] = {}
        self._bytes_up: dict[str, int] = {}
        self._bytes_down: dict[str, int] = {}

    def run(
        self,
        initial: AdapterState,
        *,
        on_round: Callable[[Checkpoint], None] | None = None,
        on_offer: Callable[[Mapping[str, str]], None] | None = None,
    ) -> Checkpoint:
        """Run the job to its end, from the last checkpoint when there is one.

        Args:
            initial: the adapter before round 0, fixed factors included.
            on_round: called after each stored round.
            on_offer: called once with the sites that refused the job, and why.

        Raises:
            RoundError: fewer than federation.min_sites took part; the finished rounds stay stored.
            CheckpointError: the stored run belongs to another job, or cannot be written.
        """
        checkpoint = self._resume() or Checkpoint(self._run_id, job_digest(self._job), 0, initial)
        self._initial_payload = initial.to_bytes()
        sites = sorted(set(self._transport.sites()) & set(self._roster.weights))
        self._offer(sites)
        if on_offer is not None:
            on_offer(self._refused)
        while checkpoint.next_round < self._job.federation.rounds:
            checkpoint = self._round(checkpoint, sites)
            self._registry.save(checkpoint)
            if on_round is not None:
                on_round(checkpoint)
        return checkpoint

    def _resume(self) -> Checkpoint | None:
        stored = self._registry.load()
        if stored is not None and (stored.job_digest != job_digest(self._job) or stored.run_id != self._run_id):
            raise CheckpointError(
                "the stored run belongs to another job",
                remedy="resume with the job it was started with, or choose another folder",
            )
        return stored

    def _offer(self, sites: Sequence[str]) -> None:
        """Offer the job to these sites and note who accepts and who refuses, with the reason."""
        offer = wire.JobOffer(
            run_id=self._run_id,
            job=self._job.model_dump(mode="json", by_alias=True),
            roster=self._roster,
            base_digest=self._base_digest,
            noise_multiplier=self._noise_multiplier,
            payload=self._initial_payload,
        )
        replies = self._exchange("offer", dict.fromkeys(sites, offer), self._deadlines.offer_s)
        for site in sites:
            reply = replies.get(site)
            if isinstance(reply, wire.Acceptance):
                self._accepted.add(site)
                self._refused.pop(site, None)
            else:
                self._accepted.discard(site)
                self._refused[site] = _reason(reply)

    def _round(self, checkpoint: Checkpoint, sites: Sequence[str]) -> Checkpoint:
        """Train one round at the sampled sites and fold the mean of their updates into the adapter."""
        started = time.monotonic()
        self._bytes_up, self._bytes_down = {}, {}
        chosen = self._sample(checkpoint.next_round, sites)
        updates, refused = self._collect(checkpoint, chosen)
        needed = self._job.federation.min_sites
        if len(updates) < needed:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(refused.items()))
            raise RoundError(
                f"round {checkpoint.next_round + 1} has too few sites",
                found=f"{len(updates)} updates ({reasons})" if reasons else f"{len(updates)} updates",
                expected=f"at least {needed} (federation.min_sites)",
                remedy="see to the sites named, then resume",
            )
        weights = self._roster.weights
        mean_update = weighted_mean({site: (weights[site], update) for site, update in updates.items()})
        adapter, state = self._fold(checkpoint, mean_update)
        record = RoundRecord(
            round_index=checkpoint.next_round,
            answered=tuple(sorted(updates)),
            refused=tuple(sorted(refused.items())),
            update_norm=float(math.sqrt(sum(float((t.astype("f8") ** 2).sum()) for t in mean_update.tensors.values()))),
            seconds=time.monotonic() - started,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            adapter_digest=adapter.digest(),
        )
        return Checkpoint(
            checkpoint.run_id,
            checkpoint.job_digest,
            checkpoint.next_round + 1,
            adapter,
            state.to_bytes(),
            (*checkpoint.rounds, record),
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

    def _sample(self, round_index: int, sites: Sequence[str]) -> list[str]:
        """The sites of a round.

        Those that accepted and, again, those that were merely out of reach. The same on resume.
        """
        wanted = max(self._job.federation.min_sites, round(self._job.federation.participation * len(sites)))
        if wanted >= len(sites):
            return list(sites)
        return sorted(random.Random(f"{self._job.federation.seed}:{round_index}").sample(list(sites), wanted))

    def _collect(self, checkpoint: Checkpoint, chosen: Sequence[str]) -> tuple[dict[str, AdapterState], dict[str, str]]:
        """Updates by site, and the reason of every site that sent none."""
        asked = [site for site in chosen if site in self._accepted]
        refused = {site: self._refused[site] for site in chosen if site not in self._accepted}
        replies = self._train(checkpoint, asked)
        forgotten = [s for s, r in replies.items() if isinstance(r, wire.Refusal) and r.unknown_job]
        if forgotten:  # A site that was started anew no longer knows the job; it may look at the offer again.
            self._offer(forgotten)
            replies |= self._train(checkpoint, [site for site in forgotten if site in self._accepted])
        updates = {}
        for site in asked:
            try:
                updates[site] = self._update(checkpoint, site, replies.get(site))
            except (WireError, AdapterError) as error:
                refused[site] = str(error)
        return updates, refused

    def _train(self, checkpoint: Checkpoint, sites: Sequence[str]) -> dict[str, wire.Message]:
        moving = {f for i in range(checkpoint.next_round + 1) for f in self._rule.trainable(i)}
        request = wire.TrainRequest(
            run_id=self._run_id,
            round_index=checkpoint.next_round,
            adapter_digest=checkpoint.adapter.digest(),
            payload=checkpoint.adapter.select(moving).to_bytes(),
        )
        return self._exchange("train", dict.fromkeys(sites, request), self._deadlines.train_s)

    def _update(self, checkpoint: Checkpoint, site: str, reply: wire.Message | None) -> AdapterState:
        """The update in a reply, checked: this round's, of this site, with the trained factors' names and shapes."""
        if not isinstance(reply, wire.PlainUpdate):
            raise WireError(_reason(reply))
        if (reply.site, reply.round_index, reply.run_id) != (site, checkpoint.next_round, self._run_id):
            raise WireError("the reply belongs to another site, round or run")
        update = AdapterState.from_bytes(reply.payload)
        update.check_finite()
        expected = checkpoint.adapter.select(self._rule.trainable(checkpoint.next_round))
        if {n: t.shape for n, t in update.tensors.items()} != {n: t.shape for n, t in expected.tensors.items()}:
            raise AdapterError("the update's factors are not those that train in this round")
        return update

    def _exchange(self, stage: str, messages: Mapping[str, wire.Message], timeout_s: float) -> dict[str, wire.Message]:
        """One exchange of typed messages, with its bytes counted; a reply that cannot be read counts as a refusal."""
        encoded: dict[int, bytes] = {}
        for message in messages.values():
            encoded.setdefault(id(message), wire.encode(message))
        payloads = {site: encoded[id(message)] for site, message in messages.items()}
        replies = self._transport.exchange(stage, payloads, timeout_s) if payloads else {}
        decoded: dict[str, wire.Message] = {}
        for site, payload in payloads.items():
            self._bytes_down[site] = self._bytes_down.get(site, 0) + len(payload)
            if site not in replies:
                continue
            self._bytes_up[site] = self._bytes_up.get(site, 0) + len(replies[site])
            try:
                decoded[site] = wire.decode(replies[site])
            except WireError as error:
                decoded[site] = wire.Refusal(run_id=self._run_id, site=site, reason=str(error))
        return decoded


def schedule_factor(schedule: str, round_index: int, rounds: int) -> float:
    """Share of the server's learning rate in a round: 1 in the first, towards 0 at the end unless constant."""
    if schedule == "linear":
        return 1.0 - round_index / rounds
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * round_index / rounds))
    return 1.0


def job_digest(job: JobConfig) -> str:
    """SHA-256 (hex) over every setting that bears on the result; those in [speed] do not."""
    settings = job.model_dump(mode="json", by_alias=True, exclude={"speed"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _reason(reply: wire.Message | None) -> str:
    if reply is None:
        return "no reply in time"
    return reply.reason if isinstance(reply, wire.Refusal) else "an unexpected kind of reply"
