"""A site's rounds of secure aggregation: which window it has, and in what order a round is charged, trained and masked.

    take the slot -> charge -> train -> quantise -> mark as released -> mask

A slot is taken first, so that nothing is charged for one that was used; it is lost if anything fails after that, and
the round may be begun again in the next one. The charge is on disk before a gradient is computed, and the mark before
the first byte of a masked update leaves.
"""

import os
from dataclasses import dataclass

from yoriai import wire
from yoriai.client.site.job import AcceptedJob, Round
from yoriai.client.site.round_trainer import RoundTrainer
from yoriai.client.site.secure_window import SecureWindow
from yoriai.client.site_identity import SiteIdentity
from yoriai.config import SiteConfig
from yoriai.errors import PolicyError
from yoriai.privacy.job_terms.noise import DistributedNoise
from yoriai.privacy.job_terms.round_terms import public_grid, window_terms
from yoriai.privacy.secagg import Integers, Member, Quantised, SlotTerms, Update, quantise
from yoriai.privacy.secagg.fixedpoint import Grid


@dataclass(frozen=True)
class Carried:
    """What a round's slot carries: `n_params` values of `grid`."""

    n_params: int
    grid: Grid


def carried_in(this: Round, request: wire.TrainRequest) -> Carried:
    """What the slot of a round carries, by the site's own plan; the request has the public range only."""
    if isinstance(this.plan.noise, DistributedNoise):
        return Carried(this.plan.noise.shares.size, Integers(this.plan.noise.shares.word_bits))
    n_params = this.start.select(this.plan.factors).n_params
    return Carried(n_params, public_grid(this.job.job, request.value_range or 0.0))


class SecureRounds:
    """The window of a site's present run, in memory only, and the rounds in its slots.

    Args:
        config: name and policy of the site.
        identity: of the site; None at one that is no member, which answers none of this.
        trainer: charges and trains.
    """

    def __init__(self, config: SiteConfig, identity: SiteIdentity | None, trainer: RoundTrainer) -> None:
        self._name, self._policy = config.name, config.policy
        self._identity, self._trainer = identity, trainer
        self._window: SecureWindow | None = None

    def member(self, offer: wire.JobOffer, number: int) -> Member:
        """The site as a party of one window, or of one round in it: roster, certificates and clock as of now.

        Raises:
            PolicyError: it is no member; or as `SiteIdentity.member`.
        """
        if self._identity is None:
            raise PolicyError(f"site {self._name} has no identity in the federation", remedy="enrol the site first")
        return self._identity.member(self._name, self._policy, offer, number)

    def forget(self) -> None:
        """Give up the window: its keys are of no use to another job."""
        self._window = None

    def open_window(self, accepted: AcceptedJob, request: wire.WindowRequest) -> wire.Message:
        """Begin to agree on the keys of a window; one that was open is given up.

        Raises:
            PolicyError: the job promises no such window; or as `SiteIdentity.member`.
        """
        self._window = None
        secure = accepted.job.secure_aggregation
        most = secure.window if secure.enabled else 0
        if request.slots > most:
            raise PolicyError(
                f"site {self._name}: a window of secure aggregation is not what the job promises",
                found=f"{request.slots} slots",
                expected=f"at most {most} (secure_aggregation.window)",
            )
        member = self.member(accepted.offer, request.window)
        terms = window_terms(
            accepted.job,
            base_digest=accepted.offer.base_digest,  # A job of an earlier version has half of it.
            noise_multiplier=accepted.noise.multiplier,
            run_id=accepted.run_id,
            number=request.window,
            slots=request.slots,
            roster_digest=member.directory.roster.digest,
        )
        self._window = SecureWindow(member, terms)
        first = wire.SecureStage(run_id=request.run_id, window=request.window, stage=wire.WINDOW_STAGES[0])
        return self.answer(first)

    def answer(self, message: wire.SecureStage) -> wire.Message:
        """Answer a stage of the window that is being opened, or of its newest slot."""
        window, stage, slot = self._window, message.stage, message.slot
        if window is None or window.terms.number != message.window:
            return self._unknown_window(message.run_id)
        reply = window.open(stage, message.payload) if slot is None else window.close(slot, stage, message.payload)
        return wire.SecureReply(
            run_id=message.run_id, window=message.window, slot=slot, stage=stage, site=self._name, payload=reply
        )

    def train(self, this: Round, request: wire.TrainRequest) -> wire.Message:
        """Train a round in a slot of the window, and answer with the masked update; the same request, the same answer.

        Raises:
            PolicyError: the request is one for an update in the clear.
            ProtocolError, IdentityError: as `privacy.secagg.slot.SiteWindow.begin`.
            BudgetError: the round cannot be charged.
        """
        number, slot, stage = request.window, request.slot, wire.SLOT_STAGES[0]
        is_shared = isinstance(this.plan.noise, DistributedNoise)
        if number is None or slot is None or (request.value_range is None) != is_shared:
            raise PolicyError(f"site {self._name}: the job promises secure aggregation, and its round does without")
        window, asked = self._window, wire.encode(request)
        if window is None or window.terms.number != number or not window.is_open:
            return self._unknown_window(request.run_id)
        reply = window.said(slot, stage, asked)
        if reply is None:
            reply = self._masked(window, this, slot, carried_in(this, request), asked=asked)
        return wire.SecureReply(
            run_id=request.run_id, window=number, slot=slot, stage=stage, site=self._name, payload=reply
        )

    def _masked(self, window: SecureWindow, this: Round, slot: int, carried: Carried, *, asked: bytes) -> bytes:
        """Take the slot, and do all that leads to its masked update."""
        # Roster, certificates and clock are judged anew in every round.
        member = self.member(this.job.offer, this.index)
        terms = SlotTerms(
            slot=slot,
            round_index=this.index,
            adapter_digest=bytes.fromhex(this.start.digest()),
            n_params=carried.n_params,
            grid=carried.grid,
        )
        ready = window.begin(member, terms)
        self._trainer.charge(this)
        values, grid = self._trainer.train(this).values, terms.grid
        try:
            quantised = Quantised(values, 0) if isinstance(grid, Integers) else quantise(values, grid, member.entropy)
            update = Update(os.urandom(32), quantised)
            ready.check(update)
        except Exception:
            self._trainer.mark_released(this)  # As in training: that it failed is seen outside.
            raise
        return window.mask(ready, update, lambda _identity: self._trainer.mark_released(this), asked=asked)

    def _unknown_window(self, run_id: str) -> wire.Refusal:
        reason = "the keys of this window are not known here (any more); begin a new window"
        return wire.Refusal(run_id=run_id, site=self._name, reason=reason, unknown_window=True)
