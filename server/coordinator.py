"""The coordinator: offers the job, runs its rounds over a Transport, folds updates into the adapter, keeps checkpoints.

It knows the job, the roster and the adapters. It has no base model and sees no record; a simulation and a deployment
run this same code over different transports.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from yoriai import wire
from yoriai.config import JobConfig, job_digest
from yoriai.errors import CheckpointError, ConfigError, RoundError
from yoriai.privacy.roster import Directory
from yoriai.privacy.round_terms import first_range, round_terms
from yoriai.privacy.secagg import RoundTerms
from yoriai.server.attendance import Attendance
from yoriai.server.collecting import Collected, VoidRound, plain_mean, secure_mean, too_few, with_reasons
from yoriai.server.folding import aggregation_of, fold, lane_of
from yoriai.server.messenger import Messenger, Transport
from yoriai.server.registry import Checkpoint, Registry, RoundRecord
from yoriai.server.schedule import sample_sites
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import EachRule, SumRule

__all__ = ["Coordinator", "Deadlines", "SignedRoster", "Transport", "last_checkpoint"]

# How often a void round of secure aggregation is begun afresh before the run stops.
_FRESH_STARTS = 2


@dataclass(frozen=True)
class Deadlines:
    """How long the coordinator waits for the sites' replies in each stage; see [deadlines] of the job."""

    offer_s: float = 3600.0
    keys_s: float = 300.0
    train_s: float = 3600.0


@dataclass(frozen=True)
class SignedRoster:
    """The consortium's roster as the coordinator needs it: its file, and its verified members."""

    file: bytes
    directory: Directory


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
        signed_roster: needed, and used, by a job with secure aggregation.
        deadlines: None takes the job's.

    Raises:
        ConfigError: settings of the job do not go together, or its roster is missing or another one.
    """

    def __init__(
        self,
        job: JobConfig,
        roster: wire.Roster,
        *,
        base_digest: str,
        noise_multiplier: float | None,
        rule: SumRule | EachRule,
        transport: Transport,
        registry: Registry,
        run_id: str,
        signed_roster: SignedRoster | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        check_fit(job)
        if roster.ranks and job.federation.aggregation != "mean":
            raise ConfigError(
                f"federation.aggregation = {job.federation.aggregation} compares whole updates",
                found=f"lower ranks at {', '.join(sorted(roster.ranks))}",
                remedy='set federation.aggregation = "mean", or give all sites the job\'s rank',
            )
        if job.secure_aggregation.enabled:
            _check_roster(signed_roster, roster)
        self._job, self._roster, self._rule = job, roster, rule
        self._base_digest, self._noise_multiplier = base_digest, noise_multiplier
        self._registry, self._run_id = registry, run_id
        self._messenger = Messenger(transport, run_id)
        self._signed_roster = signed_roster if job.secure_aggregation.enabled else None
        self._deadlines = deadlines or Deadlines(**job.deadlines.model_dump())
        self._attendance = Attendance(list(roster.weights), self._messenger, self._deadlines.offer_s)

    def run(
        self,
        initial: AdapterState,
        *,
        on_round: Callable[[Checkpoint], None] | None = None,
        on_offer: Callable[[Mapping[str, str]], None] | None = None,
        on_void: Callable[[RoundError], None] | None = None,
    ) -> Checkpoint:
        """Run the job to its end, from the last checkpoint when there is one. A finished run asks nothing of a site.

        Args:
            initial: the adapter before round 0, fixed factors included; not used when there is a checkpoint.
            on_round: called after each stored round.
            on_offer: called after each offer with the sites that do not take part so far, and why.
            on_void: called when a round of secure aggregation is void and begun afresh.

        Raises:
            RoundError: fewer than federation.min_sites took part; with secure aggregation, three times in a row. The
                finished rounds stay stored.
            CheckpointError: the stored run belongs to another job, or cannot be written.
        """
        digest = job_digest(self._job, self._base_digest)
        checkpoint = last_checkpoint(self._registry, digest, self._run_id)
        if checkpoint is None:
            checkpoint = Checkpoint(self._run_id, digest, 0, initial)
        self._messenger.ledger_heads.update(checkpoint.ledger_heads)
        while checkpoint.next_round < self._job.federation.rounds:
            if self._attendance.invite(partial(self._offer, checkpoint)) and on_offer is not None:
                on_offer(dict(self._attendance.absent))
            checkpoint = self._round(checkpoint, on_void)
            self._registry.save(checkpoint)
            if on_round is not None:
                on_round(checkpoint)
        return checkpoint

    def _offer(self, checkpoint: Checkpoint) -> wire.JobOffer:
        return wire.JobOffer(
            run_id=self._run_id,
            job=self._job.model_dump(mode="json", by_alias=True),
            roster=self._roster,
            signed_roster=self._signed_roster.file.decode() if self._signed_roster else "",
            base_digest=self._base_digest,
            noise_multiplier=self._noise_multiplier,
            payload=checkpoint.adapter.to_bytes(),
        )

    def _round(self, checkpoint: Checkpoint, on_void: Callable[[RoundError], None] | None) -> Checkpoint:
        """Train one round at the sampled sites and fold the mean of their updates into the adapter."""
        started = time.monotonic()
        chosen = self._sample(checkpoint.next_round)
        refused = self._attendance.missing_of(chosen)
        asked = [site for site in chosen if site in self._attendance.accepted]
        # Nobody's budget is charged for a round that is lost already.
        if len(asked) < self._job.federation.min_sites:
            raise self._named(
                checkpoint,
                too_few(f"{len(asked)} that accepted the job", refused, self._job.federation.min_sites),
            )
        collected, voided = self._collect(checkpoint, asked, refused, on_void)
        adapter, lane = fold(self._job, self._rule, checkpoint, collected)
        bytes_up, bytes_down = self._messenger.take_bytes()
        record = RoundRecord(
            round_index=checkpoint.next_round,
            answered=collected.answered,
            refused=tuple(sorted({**refused, **collected.missing}.items())),
            update_norm=float(np.linalg.norm(collected.mean_update.flatten().astype(np.float64))),
            seconds=time.monotonic() - started,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            adapter_digest=adapter.digest(),
            clipped=collected.clipped,
            voided=tuple(str(void) for void in voided),
            voided_masked=sum(void.masked for void in voided),
        )
        return replace(
            checkpoint,
            next_round=checkpoint.next_round + 1,
            adapter=adapter,
            lanes={**checkpoint.lanes, lane_of(self._rule, checkpoint.next_round): lane},
            rounds=(*checkpoint.rounds, record),
            ledger_heads=dict(self._messenger.ledger_heads),
        )

    def _collect(
        self,
        checkpoint: Checkpoint,
        asked: Sequence[str],
        refused: Mapping[str, str],
        on_void: Callable[[RoundError], None] | None,
    ) -> tuple[Collected, tuple[VoidRound, ...]]:
        """What the round brought, and the rounds that were void before that.

        A void round of secure aggregation opened nothing; it begins again with new keys, and its updates are trained
        anew. Sites that had masked are charged again, so such repeats are kept to the job's spare rounds. In the clear
        there is nothing that a repetition would mend.
        """
        voided: list[VoidRound] = []
        spare = self._job.privacy.spare_rounds - sum(record.voided_masked for record in checkpoint.rounds)
        while True:
            try:
                return self._collect_once(checkpoint, asked), tuple(voided)
            except RoundError as error:
                named = self._named(checkpoint, error, refused)
                if not isinstance(error, VoidRound) or len(voided) == _FRESH_STARTS:
                    raise named from None
                voided.append(VoidRound(str(named), masked=error.masked))
                if sum(void.masked for void in voided) > spare:
                    raise named from None
                if on_void is not None:
                    on_void(named)

    def _collect_once(self, checkpoint: Checkpoint, asked: Sequence[str]) -> Collected:
        index, least = checkpoint.next_round, self._job.federation.min_sites
        expected = checkpoint.adapter.select(self._rule.trainable(index))
        signed = self._signed_roster
        terms = self._terms(checkpoint, signed, expected) if signed else None
        replies, missing = self._begin(checkpoint, asked, terms.grid.value_range if terms else None)
        try:
            if signed is None or terms is None:
                collected = plain_mean(
                    replies,
                    expected=expected,
                    round_index=index,
                    weights=self._roster.weights,
                    least=least,
                    ranks=self._roster.ranks,
                    update_norm_bound=self._job.federation.update_norm_bound,
                    aggregate=aggregation_of(self._job.federation),
                )
            else:
                collected = secure_mean(
                    replies,
                    directory=signed.directory,
                    terms=terms,
                    expected=expected,
                    exchange=lambda stage, payloads: self._stage(index, stage, payloads),
                )
        except VoidRound as error:
            raise VoidRound(with_reasons(error, missing).found, masked=error.masked) from None
        except RoundError as error:
            raise with_reasons(error, missing) from None
        return replace(collected, missing={**missing, **collected.missing})

    def _terms(self, checkpoint: Checkpoint, signed: SignedRoster, expected: AdapterState) -> RoundTerms:
        value_range = checkpoint.lane(lane_of(self._rule, checkpoint.next_round)).value_range
        if value_range is None:
            value_range = first_range(self._job, self._noise_multiplier, min(self._roster.weights.values()))
        return round_terms(
            self._job,
            base_digest=self._base_digest,
            run_id=self._run_id,
            round_index=checkpoint.next_round,
            roster_digest=signed.directory.roster.digest,
            adapter_digest=checkpoint.adapter.digest(),
            n_params=expected.size_bytes // 4,
            value_range=value_range,
        )

    def _stage(
        self, round_index: int, stage: str, payloads: Mapping[str, bytes]
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """One later stage of secure aggregation; in `mask` the sites train."""
        messages = {
            site: wire.encode(
                wire.SecureStage(run_id=self._run_id, round_index=round_index, stage=stage, payload=payload)
            )
            for site, payload in payloads.items()
        }
        return self._messenger.ask(
            stage, messages, self._deadlines.train_s if stage == "mask" else self._deadlines.keys_s
        )

    def _sample(self, round_index: int) -> list[str]:
        """The sites of a round, in order; those that declined the job are passed over."""
        federation, roster = self._job.federation, self._roster.weights
        wanted = max(federation.min_sites, round(federation.participation * len(roster)))
        return sample_sites(federation.seed, round_index, set(roster) - self._attendance.declined, wanted)

    def _begin(
        self, checkpoint: Checkpoint, asked: Sequence[str], value_range: float | None
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """Send the round's request: the replies, and the reason of every site asked that sent none."""
        replies, missing = self._request(checkpoint, asked, value_range)
        forgotten = [s for s, r in replies.items() if isinstance(r, wire.Refusal) and r.unknown_job]
        if forgotten:  # A site that was started anew no longer knows the job; it may look at the offer again.
            self._attendance.offer(self._offer(checkpoint), forgotten)
            missing |= {site: self._attendance.absent[site] for site in forgotten if site in self._attendance.absent}
            again, faults = self._request(
                checkpoint, [site for site in forgotten if site in self._attendance.accepted], value_range
            )
            replies = {site: reply for site, reply in replies.items() if site not in forgotten} | again
            missing |= faults
        return replies, {site: reason for site, reason in missing.items() if site not in replies}

    def _request(
        self, checkpoint: Checkpoint, sites: Sequence[str], value_range: float | None
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        request = wire.TrainRequest(
            run_id=self._run_id,
            round_index=checkpoint.next_round,
            adapter_digest=checkpoint.adapter.digest(),
            value_range=value_range,
            payload=checkpoint.adapter.select(self._rule.moving).to_bytes(),
        )
        timeout_s = self._deadlines.train_s if value_range is None else self._deadlines.keys_s
        return self._messenger.ask("train", dict.fromkeys(sites, wire.encode(request)), timeout_s)

    def _named(self, checkpoint: Checkpoint, error: RoundError, more: Mapping[str, str] | None = None) -> RoundError:
        """The error with its round, and with the sites that were missing from the start."""
        named = with_reasons(error, more or {})
        return RoundError(
            f"round {checkpoint.next_round + 1} has too few sites",
            found=named.found,
            expected=named.expected,
            remedy=named.remedy,
        )


def _check_roster(signed: SignedRoster | None, roster: wire.Roster) -> None:
    """Raise ConfigError unless there is a signed roster with these very weights."""
    if signed is None:
        raise ConfigError("secure aggregation needs a signed roster", remedy="name the consortium's roster file")
    if {entry.name: entry.weight for entry in signed.directory.roster.sites} != roster.weights:
        raise ConfigError("the run's weights are not those of the signed roster", remedy="have the roster signed anew")


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
