"""The coordinator: offers the job, runs its rounds over a Transport, folds updates into the adapter, keeps checkpoints.

It knows the job, the roster and the adapters. It has no base model and sees no record; a simulation and a deployment
run this same code over different transports.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from yoriai import wire
from yoriai.config import JobConfig, job_digests
from yoriai.errors import AwayError, RoundError
from yoriai.server.round.attendance import Attendance, Deadlines
from yoriai.server.round.delivering import OnDelivery, deliver
from yoriai.server.round.manifest import RoundRecord
from yoriai.server.round.messenger import Messenger, Transport
from yoriai.server.round.registry import Checkpoint, Registry, factor_digests, factor_group_of, last_checkpoint
from yoriai.server.round.rosters import SignedRoster, check_roster
from yoriai.server.round.round_aggregate import RoundAggregate, VoidRound, plain_mean, too_few, with_reasons
from yoriai.server.round.round_sums import carried_in
from yoriai.server.round.sealing import Sealer, Signing
from yoriai.server.round.server_step import aggregation_of, take_server_step
from yoriai.server.round.site_sampling import sample_sites, sites_wanted
from yoriai.server.round.windows import Windows
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import EachRule, SumRule

# How often a void round of secure aggregation is begun afresh before the run stops.
_FRESH_STARTS = 2


class Coordinator:
    """One run of one job.

    Args:
        job: with task kind and labels filled in; whoever takes it from outside has seen that it fits (`check_fit`).
        roster: the weights of the sites.
        base_digest: of the base model that sites must have.
        noise_multiplier: calibrated for the whole job; None without privacy.
        rule: as the job names it.
        transport: to the sites.
        registry: where versions and checkpoints go.
        run_id: names the run in ledgers; the same after a resume.
        signed_roster: needed, and used, by a job with secure aggregation.
        deadlines: None takes the job's.
        signing: the coordinator's key and the file of its certificate, with which it signs all that it asks of sites,
            and the end; None where sites have no CA, as in a simulation without secure aggregation.
        delivers: whether the sites are told of the end, and given the last adapter; needs `signing`.
        offer_again_s: how long to wait between two offers to sites that the first round waits for.

    Raises:
        ConfigError: the job cannot run with the roster, or it is missing or another one.
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
        signing: Signing | None = None,
        delivers: bool = True,
        offer_again_s: float = 20.0,
    ) -> None:
        check_roster(job, roster, signed_roster)
        self._job, self._roster, self._rule = job, roster, rule
        self._base_digest, self._noise_multiplier = base_digest, noise_multiplier
        self._registry, self._run_id = registry, run_id
        self._messenger = Messenger(transport, run_id, Sealer(signing, run_id) if signing is not None else None)
        self._signed_roster = signed_roster if job.secure_aggregation.enabled else None
        self._signing, self._offer_again_s = signing if delivers else None, offer_again_s
        self._end_asked: Callable[[], bool] = lambda: False
        self._roster_digest = self._signed_roster.directory.roster.digest.hex() if self._signed_roster else ""
        self._deadlines = deadlines or Deadlines(**job.deadlines.model_dump())
        self._attendance = Attendance(list(roster.weights), self._messenger, self._deadlines)
        self._windows = None
        if self._signed_roster is not None:
            self._windows = Windows(
                job,
                base_digest=base_digest,
                noise_multiplier=noise_multiplier,
                run_id=run_id,
                directory=self._signed_roster.directory,
                messenger=self._messenger,
                attendance=self._attendance,
                keys_s=self._deadlines.keys_s,
            )

    def run(
        self,
        initial: AdapterState,
        *,
        on_round: Callable[[Checkpoint], None] | None = None,
        on_offer: Callable[[Mapping[str, str]], None] | None = None,
        on_void: Callable[[RoundError], None] | None = None,
        on_delivery: OnDelivery | None = None,
        end_asked: Callable[[], bool] | None = None,
    ) -> Checkpoint:
        """Run the job to its end, from the last checkpoint when there is one, and deliver the last adapter.

        It ends early, with the adapter of the last stored round, where that is asked for, and where too few sites have
        a round left. That is stored before any site learns of it, and no round follows.

        A run that is finished, and delivered if it is to be, asks nothing of a site.

        Args:
            initial: the adapter before round 0, fixed factors included; not used when there is a checkpoint.
            on_round: called after each stored round.
            on_offer: called after each offer with the sites that do not take part so far, and why.
            on_void: called when a round of secure aggregation is void and begun afresh.
            on_delivery: called after each attempt to deliver with the sites that have not confirmed so far, and why.
            end_asked: whether the run is to end early; asked before a round, and when one could not be had.

        Raises:
            RoundError: fewer than federation.min_sites took part; with secure aggregation, three times in a row. The
                finished rounds stay stored.
            CheckpointError: the stored run belongs to another job, or cannot be written.
        """
        digests = job_digests(self._job, self._base_digest)
        checkpoint = last_checkpoint(self._registry, digests, self._run_id)
        if checkpoint is None:
            checkpoint = Checkpoint(self._run_id, digests[0], 0, initial)
        checkpoint = replace(checkpoint, base_digest=self._base_digest)
        self._messenger.ledger_heads.update(checkpoint.ledger_heads)
        self._end_asked = end_asked or self._end_asked
        while checkpoint.next_round < self._job.federation.rounds and not checkpoint.ended_early:
            checkpoint = self._advanced(checkpoint, on_offer, on_void)
            self._registry.save(checkpoint)
            if on_round is not None and not checkpoint.ended_early:
                on_round(checkpoint)
        if self._signing is None:
            return checkpoint
        return deliver(
            checkpoint,
            self._registry,
            self._messenger,
            roster=self._roster.weights,
            roster_digest=self._accepted_roster(checkpoint),
            signing=self._signing,
            within_s=self._deadlines.offer_s,
            again_s=self._offer_again_s,
            on_delivery=on_delivery,
        )

    @property
    def attendance(self) -> Attendance:
        """Who takes part, as far as the sites were asked."""
        return self._attendance

    def _advanced(
        self,
        checkpoint: Checkpoint,
        on_offer: Callable[[Mapping[str, str]], None] | None,
        on_void: Callable[[RoundError], None] | None,
    ) -> Checkpoint:
        """The checkpoint after one more round, or with the reason why none comes any more."""
        if not (over := self._why_over()):
            try:
                self._attendance.gather(
                    partial(self._offer, checkpoint),
                    least=self._job.federation.min_sites,
                    is_first=checkpoint.next_round == 0,
                    again_s=self._offer_again_s,
                    on_offer=on_offer,
                    is_over=self._end_asked,
                )
                if not (over := self._why_over()):
                    return self._round(checkpoint, on_void)
            except RoundError:
                if not (over := self._why_over()):
                    raise
        return replace(checkpoint, ended_early=over)

    def _why_over(self) -> str:
        """Why no further round comes; empty as long as one may."""
        if self._end_asked():
            return "the coordinator's operator ended it"
        return self._attendance.too_few_left(self._job.federation.min_sites)

    def _accepted_roster(self, checkpoint: Checkpoint) -> str:
        """Digest of the signed roster under which the sites know the job: of this start's offers, if any were taken."""
        offered = self._attendance.accepted or self._attendance.used_up
        return self._roster_digest if offered or not checkpoint.rounds else checkpoint.rounds[-1].roster_digest

    def _offer(self, checkpoint: Checkpoint) -> wire.JobOffer:
        return wire.JobOffer(
            run_id=self._run_id,
            job=self._job.model_dump(mode="json", by_alias=True),
            roster=self._roster,
            signed_roster=self._signed_roster.file.decode() if self._signed_roster else "",
            base_digest=self._base_digest,
            noise_multiplier=self._noise_multiplier,
            payload=checkpoint.adapter.to_bytes(),
            rounds_done=checkpoint.next_round,
        )

    def _round(self, checkpoint: Checkpoint, on_void: Callable[[RoundError], None] | None) -> Checkpoint:
        """Train one round at the sampled sites and take_server_step the mean of their updates into the adapter."""
        started = time.monotonic()
        chosen = self._chosen(checkpoint.next_round)
        refused = self._attendance.missing_of(chosen)
        collected, voided = self._collect(checkpoint, chosen, refused, on_void)
        adapter, factor_group = take_server_step(self._job, self._rule, checkpoint, collected)
        bytes_up, bytes_down = self._messenger.take_bytes()
        record = RoundRecord(
            round_index=checkpoint.next_round,
            answered=collected.answered,
            refused=tuple(sorted({**refused, **collected.missing}.items())),
            update_norm=collected.mean_update.norm(),
            seconds=time.monotonic() - started,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            adapter_digest=adapter.digest(),
            clipped=collected.clipped,
            voided=tuple(str(void) for void in voided),
            voided_masked=sum(void.masked for void in voided),
            factors=factor_digests(adapter),
            roster_digest=self._roster_digest,
        )
        return replace(
            checkpoint,
            next_round=checkpoint.next_round + 1,
            adapter=adapter,
            lanes={**checkpoint.lanes, factor_group_of(self._rule, checkpoint.next_round): factor_group},
            rounds=(*checkpoint.rounds, record),
            ledger_heads=dict(self._messenger.ledger_heads),
        )

    def _collect(
        self,
        checkpoint: Checkpoint,
        chosen: Sequence[str],
        refused: Mapping[str, str],
        on_void: Callable[[RoundError], None] | None,
    ) -> tuple[RoundAggregate, tuple[VoidRound, ...]]:
        """What the round brought, and the rounds that were void before that.

        A void round of secure aggregation opened nothing; it begins again with the keys of another slot, and its
        updates are trained anew. Sites that had masked are charged again, so such repeats are kept to the job's spare
        rounds. In the clear there is nothing that a repetition would mend.
        """
        named = partial(with_reasons, reasons=refused, what=f"round {checkpoint.next_round + 1} has too few sites")
        least, there = self._job.federation.min_sites, len(self._attendance.accepted.intersection(chosen))
        if there < least:  # Nobody's budget is charged for a round that is lost already.
            lost = named(too_few(f"{there} that accepted the job", refused, least))
            raise AwayError(lost.what, found=lost.found, remedy=lost.remedy) if self._attendance.may_come else lost
        voided: list[VoidRound] = []
        spare = self._job.privacy.spare_rounds - sum(record.voided_masked for record in checkpoint.rounds)
        while True:
            try:
                return self._collect_once(checkpoint, chosen), tuple(voided)
            except RoundError as error:
                told = named(error)
                if not isinstance(error, VoidRound) or len(voided) == _FRESH_STARTS or self._why_over():
                    raise told from None
                voided.append(VoidRound(str(told), masked=error.masked))
                if sum(void.masked for void in voided) > spare:
                    raise told from None
                if on_void is not None:
                    on_void(told)

    def _collect_once(self, checkpoint: Checkpoint, chosen: Sequence[str]) -> RoundAggregate:
        request, signed = self._request(checkpoint), self._signed_roster
        ask = partial(self._attendance.ask, offer=partial(self._offer, checkpoint))
        if self._windows is not None and signed is not None:
            return self._windows.collect(
                request,
                chosen,
                carried=carried_in(
                    self._job,
                    self._rule,
                    checkpoint,
                    noise_multiplier=self._noise_multiplier,
                    weights=self._roster.weights,
                    directory=signed.directory,
                ),
                rounds_left=self._job.federation.rounds - checkpoint.next_round,
                ask=ask,
            )
        asked = [site for site in chosen if site in self._attendance.accepted]
        replies, missing = ask(asked, request)
        try:
            collected = plain_mean(
                replies,
                expected=checkpoint.adapter.select(self._rule.trainable(checkpoint.next_round)),
                round_index=checkpoint.next_round,
                weights=self._roster.weights,
                least=self._job.federation.min_sites,
                ranks=self._roster.ranks,
                update_norm_bound=self._job.federation.update_norm_bound,
                aggregate=aggregation_of(self._job.federation),
            )
        except RoundError as error:
            raise with_reasons(error, missing) from None
        return replace(collected, missing={**missing, **collected.missing})

    def _chosen(self, round_index: int) -> list[str]:
        """The sites of a round, in order: those of the present window, or a new draw.

        A window is agreed with its members, so a site that has accepted since is in none of its slots. Where the round
        has a place for it, the window ends early: its other slots are never begun, and nothing was charged for them.
        """
        kept = self._windows.chosen() if self._windows else None
        if kept is None:
            return self._sample(round_index)
        has_place = len(kept) < sites_wanted(self._job.federation, len(self._roster.weights))
        is_late = bool(self._attendance.accepted.difference(kept))
        return self._sample(round_index) if has_place and is_late else list(kept)

    def _sample(self, round_index: int) -> list[str]:
        """The sites of a round, in order; those that declined the job, or wait, are passed over."""
        federation, roster = self._job.federation, self._roster.weights
        wanted = sites_wanted(federation, len(roster))
        return sample_sites(federation.seed, round_index, set(roster) - self._attendance.passed_over, wanted)

    def _request(self, checkpoint: Checkpoint) -> wire.TrainRequest:
        return wire.TrainRequest(
            run_id=self._run_id,
            round_index=checkpoint.next_round,
            adapter_digest=checkpoint.adapter.digest(),
            payload=checkpoint.adapter.select(self._rule.moving).to_bytes(),
        )
