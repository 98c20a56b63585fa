"""What rounds may take of a site's ledger: a charge serves until its update left, and nothing goes beyond the job."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import JobMaker
from tests.privacy.ledgers import open_ledger
from yoriai.client.site.job import AcceptedJob, Round, training_plan
from yoriai.client.site.round_trainer import RoundTrainer, SiteHooks
from yoriai.errors import UsedUpError
from yoriai.privacy.job_terms.noise import LocalNoise, Noise, NoNoise
from yoriai.privacy.ledger.ledger import Ledger

RUN = "run-1"
NOISE = LocalNoise(3.0)

RoundMaker = Callable[..., Round]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def trainer(ledger: Ledger) -> RoundTrainer:
    """Without a model: nothing here trains."""
    return RoundTrainer("north", ledger, SiteHooks())


@pytest.fixture
def make_round(make_job: JobMaker) -> RoundMaker:
    """A round of a job with two rounds, none to spare; settings as those of `make_job`."""

    def make(index: int = 0, noise: Noise = NOISE, **settings: Any) -> Round:
        job = make_job(**{"federation__rounds": 2, "privacy__spare_rounds": 0, **settings})
        # Of an accepted job, what is tried here looks at these alone.
        unused: Any = None
        accepted = AcceptedJob(RUN, job, unused, unused, unused, unused, 1, noise, offer=unused)
        plan = training_plan(job, index, weight=1, noise=noise, physical_batch_size=8)
        return Round(accepted, index, unused, plan, plan.event())

    return make


def approved(trainer: RoundTrainer, this: Round) -> None:
    event = this.event
    assert event is not None
    trainer.promise(RUN, event, this.job.job)


def test_the_last_round_is_served_again_after_a_crash_and_its_charge_is_the_same(
    trainer: RoundTrainer, ledger: Ledger, make_round: RoundMaker
) -> None:
    approved(trainer, make_round())
    trainer.charge(make_round(0))
    trainer.mark_released(make_round(0))
    for _ in range(2):
        trainer.charge(make_round(1))
    assert [(one.round_index, one.released) for one in ledger.charges()] == [(0, True), (1, False)]
    trainer.mark_released(make_round(1))
    for index in (0, 1):
        with pytest.raises(UsedUpError, match="every round of run run-1 is used"):
            trainer.charge(make_round(index))


def test_a_round_that_nothing_was_promised_for_is_not_charged(
    trainer: RoundTrainer, ledger: Ledger, make_round: RoundMaker
) -> None:
    with pytest.raises(UsedUpError):
        trainer.charge(make_round())
    assert ledger.charges() == []


def test_the_charge_of_another_run_serves_no_round(
    trainer: RoundTrainer, ledger: Ledger, make_round: RoundMaker
) -> None:
    ledger.reserve("another", 0, make_round().event)  # Not released.
    with pytest.raises(UsedUpError):
        trainer.charge(make_round())


def test_rounds_are_left_until_all_are_charged_and_the_last_charge_has_left(
    trainer: RoundTrainer, ledger: Ledger, make_round: RoundMaker
) -> None:
    ledger.reserve("another", 0, make_round().event)  # Not released, and of no consequence.
    approved(trainer, make_round())
    for index in (0, 1):
        trainer.check_rounds_left(make_round().job)
        trainer.charge(make_round(index))
        trainer.check_rounds_left(make_round().job)
        trainer.mark_released(make_round(index))
    with pytest.raises(UsedUpError, match="every round of run run-1 is used, the spare ones too"):
        trainer.check_rounds_left(make_round().job)


def test_without_privacy_there_are_always_rounds_left(trainer: RoundTrainer, make_round: RoundMaker) -> None:
    trainer.check_rounds_left(make_round(noise=NoNoise()).job)


@pytest.mark.parametrize("spare", [0, 2])
def test_without_privacy_a_masked_round_leaves_once_and_once_more_for_each_spare_round(
    trainer: RoundTrainer, make_round: RoundMaker, spare: int
) -> None:
    masked = {"secure_aggregation__enabled": True, "privacy__spare_rounds": spare, "privacy__noise": "none"}
    for index in (0, 1):
        this = make_round(index, NoNoise(), **masked)
        for _ in range(1 + spare):
            trainer.mark_released(this)
        with pytest.raises(UsedUpError, match=f"round {index} of job run-1 left {1 + spare} times already"):
            trainer.mark_released(this)


def test_without_privacy_or_masks_a_round_leaves_as_often_as_it_is_asked_for(
    trainer: RoundTrainer, ledger: Ledger, make_round: RoundMaker
) -> None:
    for _ in range(5):
        trainer.mark_released(make_round(0, NoNoise(), privacy__noise="none"))
    assert ledger.charges() == []
