"""Black-box attack: real records as canaries, in a federation of one site, judged by their loss before and after.

Every record is in or out by a coin of its own. One half keeps its label and tells how well a loss threshold finds the
members (Yeom et al. 2018). The other half is given a wrong label, which nothing but its own presence teaches: these are
the canaries of the audit. The adversary knows the records and the base, and sees the losses of the final adapter only.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch

from yoriai import wire
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import RecordError
from yoriai.privacy.dp.empirical_epsilon import auc, true_positive_rate
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.run.compare import alone
from yoriai.simulations.run.simulated_federation import Federation, run_federation
from yoriai.strategies.adapter import AdapterState

_POOL = "all"
_BATCH = 32


@dataclass(frozen=True)
class Candidates:
    """Records that may be in, and the coins.

    Attributes:
        included: (n,) bool.
        canary: (n,) bool, those of a wrong label; all of them where the task has no labels.
    """

    records: tuple[Record, ...]
    included: np.ndarray
    canary: np.ndarray


@dataclass(frozen=True)
class Losses:
    """One loss a candidate, before and after a training on those that are in. Both (n,)."""

    before: np.ndarray
    after: np.ndarray
    epsilon_ledger: float | None


def candidates(job: JobConfig, sites: Sequence[SiteRecords], count: int, source: RandomSource) -> Candidates:
    """Draw candidates from the sites' training records, and toss their coins.

    Args:
        count: at most; all there are if they are fewer.

    Raises:
        RecordError: there are fewer than 8.
    """
    pool = [record for site in sites for record in site.train]
    chosen = [pool[i] for i in np.argsort(source.uniform(len(pool)))[:count]]
    if len(chosen) < 8:
        raise RecordError("too few records to attack", found=str(len(chosen)), expected="at least 8")
    labels = job.task.labels
    if not labels:
        return Candidates(tuple(chosen), source.uniform(len(chosen)) < 0.5, np.ones(len(chosen), np.bool_))
    canary = np.arange(len(chosen)) < len(chosen) // 2
    shifts = 1 + (source.uniform(len(chosen)) * (len(labels) - 1)).astype(int)
    mislabelled = (
        replace(record, response=labels[(labels.index(record.response or "") + int(shift)) % len(labels)])
        for record, shift in zip(chosen, shifts, strict=True)
    )
    records = tuple(wrong if c else r for r, wrong, c in zip(chosen, mislabelled, canary, strict=True))
    return Candidates(records, source.uniform(len(chosen)) < 0.5, canary)


def losses_before(job: JobConfig, session: ModelSession, found: Candidates) -> np.ndarray:
    """Every candidate's loss under the adapter that training starts from, whatever the job's privacy. (n,)."""
    return _each_loss(job, session, found, session.initial_adapter(job))


def losses(
    job: JobConfig,
    session: ModelSession,
    found: Candidates,
    folder: Path,
    observer: Observer,
    *,
    before: np.ndarray,
) -> Losses:
    """Train on the candidates that are in, by the way of a federation with one site, and measure all of them.

    Args:
        before: of `losses_before`, once for all trainings that start alike.
    """
    unit, half = job.training.records_per_weight, len(found.records) / 2
    federation = Federation(
        job=alone(job),
        sites=(SiteRecords(_POOL, tuple(compress(found.records, found.included)), ()),),
        roster=wire.Roster(serial=1, weights={_POOL: max(1, round(half / unit))}),
        folder=folder,
        run_id=f"audit-{uuid.uuid4().hex[:12]}",
        observer=observer,
    )
    outcome = run_federation(federation, session)
    return Losses(
        before=before,
        after=_each_loss(federation.job, session, found, outcome.checkpoint.adapter),
        epsilon_ledger=outcome.epsilon.get(_POOL),
    )


@torch.no_grad()
def _each_loss(job: JobConfig, session: ModelSession, found: Candidates, adapter: AdapterState) -> np.ndarray:
    """Every candidate's loss under an adapter. (n,)."""
    model, head = session.model(job), session.head(job)
    model.load(adapter)
    prepared = session.prepare(found.records, job)
    # Batches come by length and then by place, and so must the places that their losses go to.
    order = sorted(range(len(prepared)), key=lambda place: (len(prepared.examples[place].token_ids), place))
    batches = prepared.batches(order, _BATCH)
    measured = np.empty(len(prepared))
    measured[order] = np.concatenate([head.losses(head.hidden(model, b), b).double().cpu().numpy() for b in batches])
    return measured


def membership(measured: Losses, found: Candidates) -> dict[str, float | int]:
    """How well a threshold on the final loss tells members from others, among records with their own labels."""
    natural = ~found.canary if not found.canary.all() else found.canary
    scores, included = -measured.after[natural], found.included[natural]
    return {
        "records": int(natural.sum()),
        "auc": auc(scores, included),
        "tpr_at_1pct_fpr": true_positive_rate(scores, included),
    }
