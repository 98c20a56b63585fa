"""The one-pass engine: the sites of the in-process engine, whose records pass through the model together.

Sites, messages, ledgers and masks are those of the in-process engine, and so is what comes out, bit for bit. The first
site that is to train has all that were asked train with it, as `yoriai.client.training.one_pass`; the others find
their updates made. So a gradient may be computed before its site's ledger has its charge. Where nothing has left the
machine that undercharges nobody: an update is used by the site whose ledger was charged, or thrown away, and no round
is stored before the charges of all are durable (decision 43).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from yoriai import wire
from yoriai.client.site.job import AcceptedJob, Round, training_plan
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.client.training.one_pass import Part, train_together
from yoriai.client.training.shared_round import SharedSum
from yoriai.client.training.train import LocalUpdate
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.round_terms import rotation_seed

_TRAINING = frozenset({wire.TRAIN_STAGE, wire.SLOT_STAGES[0]})


def check_one_pass(job: JobConfig) -> None:
    """Raise ConfigError if the sites of a job cannot train together."""
    if job.training.local_steps != 1:
        raise ConfigError(
            "the one-pass engine shares one local step, after which every site stands at an adapter of its own",
            found=f"training.local_steps = {job.training.local_steps}",
            expected="1",
            remedy="leave --engine one-pass out: one site trains after the other",
        )


@dataclass(frozen=True)
class _Made:
    """What a site trained, and for which round."""

    this: Round
    trained: LocalUpdate | SharedSum


class OnePass:
    """Trains the sites of one exchange when the first of them comes to it."""

    def __init__(self) -> None:
        self._alone: dict[str, SiteHooks] = {}
        self._asked: dict[str, Site] = {}
        self._made: dict[str, _Made] = {}
        self._stands_at = ""

    def begin(self, sites: Mapping[str, Site], stage: str, asked: Collection[str]) -> None:
        """Told of each exchange before its first site is asked."""
        self._asked = {name: sites[name] for name in sorted(asked)} if stage in _TRAINING else {}
        self._made, self._stands_at = {}, ""

    def hooks(self, name: str, alone: SiteHooks) -> SiteHooks:
        """What is put into a site, in place of what it would do alone."""
        self._alone[name] = alone
        return replace(alone, check=partial(self._check, alone), train=partial(self._train, name))

    def _check(self, alone: SiteHooks, this: Round) -> None:
        """Once an exchange: all sites begin at one adapter."""
        if self._stands_at != this.start.digest():
            alone.check(this)
            self._stands_at = this.start.digest()

    def _train(self, name: str, this: Round, source: RandomSource, progress: object) -> LocalUpdate | SharedSum:
        """The site's update, as it was made with the others'; alone where something is not as it was then."""
        alone = self._alone[name]
        if self._asked:
            self._train_all(this)
        made = self._made.pop(name, None)
        if made is None or not _alike(made.this, this):
            self._stands_at = ""
            return alone.train(this, source, alone.on_step)
        if alone.on_step is not None:
            alone.on_step(1)
        return made.trained

    def _train_all(self, first: Round) -> None:
        """Train every site that was asked, as far as it is to train the same round at the same rank."""
        asked, self._asked = self._asked, {}
        rounds = {name: found for name, site in asked.items() if (found := _round_of(site.accepted, first)) is not None}
        parts = [
            Part(this.job.records, this.plan, self._alone[name].randomness(this.job.run_id, this.index))
            for name, this in rounds.items()
        ]
        job = first.job
        try:
            done = train_together(
                job.model,
                first.start,
                job.head,
                parts,
                lambda: rotation_seed(job.run_id, first.index, first.start.digest()),
            )
            self._made = {
                name: _Made(this, trained) for (name, this), trained in zip(rounds.items(), done, strict=True)
            }
        except Exception:  # Of one site, and nobody knows which: each trains alone, and it fails there.
            self._made = {}


def _round_of(accepted: AcceptedJob | None, first: Round) -> Round | None:
    """The round that a site is to train where another one trains `first`; None if they cannot share a pass."""
    if accepted is None or accepted.model is not first.job.model or accepted.run_id != first.job.run_id:
        return None
    if accepted.rank != first.job.rank:
        return None
    if (accepted.records.kept_states() is None) != (first.job.records.kept_states() is None):
        return None
    plan = training_plan(
        accepted.job,
        first.index,
        weight=accepted.weight,
        noise=accepted.noise,
        physical_batch_size=first.plan.physical_batch_size,
        rank=accepted.rank,
    )
    return Round(accepted, first.index, first.start, plan, plan.event()) if plan.local_steps == 1 else None


def _alike(made: Round, asked: Round) -> bool:
    return made.job is asked.job and made.plan == asked.plan and made.start == asked.start
