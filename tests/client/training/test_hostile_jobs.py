"""No valid job switches the noise off, or lets one record move the sum by more than the clip norm.

Jobs are drawn at random, by a fixed seed each: numbers at the ends of their ranges (`hostile.py`), and adapters of
wild magnitudes. What is judged is the release itself, by the path that training takes; what comes after it sees nothing
else. A job that is refused releases nothing.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import LABELS, JobMaker
from tests.client.hostile import hostile_adapter, hostile_settings, like_the_noise, numbers
from tests.client.rounds import Quiet
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.shared_round import sum_round
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig
from yoriai.errors import ConfigError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import DistributedNoise, resolve_noise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import get_rule, largest_update

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

SITES = 3
SHARED: dict[str, object] = {
    "privacy__noise": "distributed",
    "secure_aggregation__enabled": True,
    "federation__min_sites": SITES,
    "training__local_steps": 1,
    "training__optimizer": "sgd",
    "training__lowpass": False,
}
ALL_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
USUAL = tuple(Record(prompt="pump leaks oil"[: 3 + n % 7] + str(n), response=LABELS[n % 3]) for n in range(6))
# Of the largest shape, so that it comes last and the others are rounded with the same draws.
ONE_MORE = (*USUAL, Record(prompt="the secret record is longer than any", response=LABELS[0]))


class Everyone(SystemSource):
    """The system's own randomness, but that every record is drawn, whatever the rate."""

    def uniform(self, n: int) -> np.ndarray:
        return np.zeros(n)


@dataclass(frozen=True)
class Case:
    """A job at one site, and the adapter that it trains from."""

    job: JobConfig
    bench: ModelSession
    start: AdapterState
    plan: TrainingPlan

    def gradients(self, records: tuple[Record, ...]) -> RoundGradients:
        model, head = self.bench.model(self.job), self.bench.head(self.job)
        return RoundGradients.at(model, self.start, self.bench.prepare(records, self.job), head, self.plan)


@dataclass(frozen=True)
class Release:
    """What `ClippedGradientSum.release` was given, and what it gave. Both (n,) float64."""

    exact: np.ndarray
    noised: np.ndarray
    event: SampledGaussian


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> list[Release]:
    """Everything that is released from now on, beside the sum before the noise."""
    seen: list[Release] = []
    release = ClippedGradientSum.release

    def watched(self: ClippedGradientSum, **more: Any) -> Any:
        exact = self.flat().copy()
        noised, event = release(self, **more)
        seen.append(Release(exact, noised, event))
        return noised, event

    monkeypatch.setattr(ClippedGradientSum, "release", watched)
    return seen


def case_of(bench: ModelSession, job: JobConfig, generator: np.random.Generator, sites: int = 1) -> Case:
    """The job as a site would hold it, with the least noise that its epsilon allows.

    Raises:
        ConfigError: no noise reaches it, or no record fits into so few tokens.
    """
    bench.head(job)
    start = hostile_adapter(bench.model(job), bench.initial_adapter(job), generator)
    sizes = {"n_params": largest_update(get_rule(job.federation.rule), start), "sites": sites}
    noise = resolve_noise(job, calibrated(job, **sizes), **sizes)
    plan = training_plan(job, 0, weight=1, noise=noise, physical_batch_size=64)
    return Case(job, bench, start, plan)


def judge(case: Case, releases: list[Release]) -> float:
    """Train twice on the same records and once on one more; hold what is released against its event.

    Returns:
        By how much the one more moved the sum, in clip norms.
    """
    plan, updates = case.plan, []
    assert plan.noise.multiplier is not None
    first: list[Release] = []
    for records in (USUAL, USUAL, ONE_MORE):
        at = case.gradients(records)
        with suppress(TrainingError):  # It diverged, after the release.
            done = train_round(at.model, case.start, at.records, at.head, plan, source=Everyone())
            updates.append(done.update.flatten().astype(float))
        assert len(releases) == plan.local_steps
        first.append(releases[0])
        releases.clear()
    one, other, more = first
    assert one.event == SampledGaussian(plan.sampling_rate, plan.noise.multiplier)
    np.testing.assert_array_equal(one.exact, other.exact)
    moved = np.linalg.norm(more.exact / plan.clip_norm - one.exact / plan.clip_norm)
    assert moved <= 1 + 1e-9
    deviation = plan.noise.multiplier * plan.clip_norm
    like_the_noise(one.noised - other.noised, deviation)
    if len(updates) == 3 and updates[0].any():
        noise, signal = deviation * np.sqrt(one.exact.size), np.linalg.norm(one.exact)
        left, right = (update / np.abs(updates[0]).max() for update in updates[:2])
        assert np.linalg.norm(left - right) > 0.1 * noise / (noise + signal) * np.linalg.norm(left)
    return float(moved)


def tried(
    make_job: JobMaker, bench: ModelSession, seeds: range, judged: Callable[[Case], float], **settings: object
) -> Iterator[float]:
    """By how much one record moved the sum, for each hostile job of these seeds that is not refused."""
    fixed = {"privacy__accountant": "rdp", "lora__target_modules": ALL_MAPS, "speed__threads": 1}
    for seed in seeds:
        generator = np.random.default_rng(seed)
        drawn = {key.replace(".", "__"): value for key, value in hostile_settings(generator).items()}
        try:
            job = make_job(**{**drawn, **fixed, **settings})
            check_lowpass(job)
            case = case_of(bench, job, generator, SITES if "privacy__noise" in settings else 1)
        except ConfigError:
            continue
        try:
            yield judged(case)
        except AssertionError as error:
            error.add_note(f"seed {seed}: {drawn}")
            raise


def check_lowpass(job: JobConfig) -> None:
    """As a site does where a job comes in; of what else does not fit, the parts below are to bear all."""
    if job.training.lowpass:
        check_fit(job)


def check_enough(moved: Iterator[float], wanted: int) -> None:
    """Go on until so many jobs were judged. There are as many, and in one at least a record's gradient was not zero."""
    judged = list(itertools.islice(moved, wanted))
    assert len(judged) == wanted
    assert max(judged) > 0.5


# Scales of gradient and clip norm that were once enough: in float32 the norms' squares vanish, and the factor is 1.
VANISHING = {"alpha": 1e-25, "clip_norm": 1e-36, "learning_rate": 1e25}


def vanishing(make_job: JobMaker, bench: ModelSession, **settings: object) -> Case:
    """A job beyond what any config takes, built behind its back, with an honest adapter."""
    job = make_job(lora__target_modules=ALL_MAPS, privacy__accountant="rdp", **settings)
    lora = job.lora.model_copy(update={"alpha": VANISHING["alpha"]})
    job = job.model_copy(
        update={
            "lora": lora,
            "privacy": job.privacy.model_copy(update={"clip_norm": VANISHING["clip_norm"]}),
            "training": job.training.model_copy(update={"learning_rate": VANISHING["learning_rate"]}),
        }
    )
    case = case_of(bench, job, np.random.default_rng(0), SITES if "privacy__noise" in settings else 1)
    start = hostile_adapter(bench.model(job), bench.initial_adapter(job), np.random.default_rng(0), magnitudes=(0.1,))
    return replace(case, start=start)


@pytest.mark.parametrize("wrong", [2 / 3, 3 / 2, 0.0])
def test_two_thirds_three_halves_and_none_of_the_noise_are_noticed(wrong: float) -> None:
    differences = np.sqrt(2) * np.random.default_rng(0).normal(size=1000)
    like_the_noise(differences, 1.0)
    with pytest.raises(AssertionError):
        like_the_noise(wrong * differences, 1.0)


def test_every_number_of_a_job_has_a_least_and_a_largest_value() -> None:
    found = numbers()
    assert len(found) > 30
    assert [number.key for number in found if None in (number.least, number.largest)] == []


def test_no_hostile_job_has_less_noise_or_sensitivity_than_its_event_says(
    make_job: JobMaker, session: ModelSession, releases: list[Release]
) -> None:
    check_enough(tried(make_job, session, range(200), lambda case: judge(case, releases)), 6)


def judge_shared(case: Case) -> float:
    """The same for what a site enters into the secure sum, whole numbers modulo 2^w."""
    plan = case.plan
    assert isinstance(plan.noise, DistributedNoise)

    def residues(records: tuple[Record, ...], source: Any) -> np.ndarray:
        done = sum_round(case.gradients(records), rotation_seed=bytes(32), source=source)
        assert done.event == plan.event()
        return done.residues.astype(np.int64)

    noise, usual = plan.noise.shares, (USUAL, ONE_MORE)
    half = 2 ** (noise.word_bits - 1)
    fewer, more = (residues(records, Quiet(b"rounding")) for records in usual)
    moved = (more - fewer + half) % (2 * half) - half
    assert int((moved**2).sum()) <= plan.event().squared_l2
    assert int(np.abs(moved).sum()) <= plan.event().l1
    fresh = [residues(USUAL, Everyone()) for _ in range(2)]
    apart = (fresh[0] - fresh[1] + half) % (2 * half) - half
    assert noise.honest * noise.share_variance >= (plan.noise.multiplier or np.inf) ** 2 * noise.squared_l2 * (1 - 1e-9)
    like_the_noise(apart, np.sqrt(noise.share_variance), more=len(USUAL) / 4)
    return float(np.linalg.norm(moved)) / noise.scale


def test_no_hostile_job_has_less_shared_noise_or_sensitivity_than_its_event_says(
    make_job: JobMaker, session: ModelSession
) -> None:
    check_enough(tried(make_job, session, range(200, 400), judge_shared, **SHARED), 5)


def test_vanishing_gradients_beside_a_vanishing_clip_norm_stay_below_the_noise(
    make_job: JobMaker, session: ModelSession, releases: list[Release]
) -> None:
    judge(vanishing(make_job, session), releases)
    judge_shared(vanishing(make_job, session, **SHARED))


def test_norms_in_half_the_precision_would_be_found_out(
    make_job: JobMaker, session: ModelSession, releases: list[Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that these tests were written for, put back in."""
    monkeypatch.setattr("yoriai.privacy.dp.dpsgd.norms", lambda rows: [float(row.float().norm()) for row in rows])
    with pytest.raises(AssertionError):
        judge(vanishing(make_job, session), releases)


@pytest.mark.parametrize("seed", range(3))
def test_an_adapter_that_makes_last_bits_large_lets_no_record_move_the_others(
    make_job: JobMaker, session: ModelSession, seed: int, releases: list[Release]
) -> None:
    """A longer record changed the padding of all, and with it their last bits, which such an adapter amplifies."""
    job = make_job(lora__target_modules=ALL_MAPS, privacy__accountant="rdp", training__sampling_rate=1.0)
    generator = np.random.default_rng(seed)
    case = case_of(session, job, generator)
    magnitudes = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    start = hostile_adapter(session.model(job), session.initial_adapter(job), generator, magnitudes)
    judge(replace(case, start=start), releases)
