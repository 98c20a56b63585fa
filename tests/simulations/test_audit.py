"""The audit of an honest trainer, its control, and broken trainers that it must catch. On random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from tests.simulations.audits import SETTINGS, asked
from tests.world import write_sites
from yoriai.cli import command
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.privacy.dp import dpsgd
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.empirical_epsilon import epsilon_from_cosines
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.simulations.audit import canary_audit as auditing
from yoriai.simulations.audit.attack import Carrier, Dirac, Noiseless, RandomDirections, attack, for_attack
from yoriai.simulations.audit.attack_records import Candidates, Losses, candidates, membership
from yoriai.simulations.audit.canary_audit import TINY_SETTINGS, audit
from yoriai.simulations.cli.audit_cli import print_audit
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    sites = write_sites(tmp_path_factory.mktemp("audit") / "sites", {"north": 30, "east": 24})
    return resolve(None, DataSource(path=sites), SETTINGS)


@pytest.fixture(scope="module")
def honest(experiment: Experiment, session: ModelSession) -> dict[str, Any]:
    """The audit of the trainer as it is, black-box part included."""
    return audit(experiment, session, asked(records=40))


def carrier(job: JobConfig, session: ModelSession, experiment: Experiment, folder: Path, **more: Any) -> Carrier:
    return Carrier(for_attack(job, **more), session, experiment.sites[0].train[:2], folder)


def test_the_bound_of_an_honest_trainer_is_above_nothing_and_below_the_ledger(honest: dict[str, Any]) -> None:
    assert 0.5 < honest["epsilon_lower_white_box"] < honest["epsilon_ledger"] <= 4.0
    assert honest["epsilon_ledger"] > 3.9
    assert not honest["refuted"]


def test_the_control_without_noise_makes_the_bound_jump(honest: dict[str, Any]) -> None:
    assert honest["control"]["epsilon_lower_white_box"] > 4.0
    assert honest["control_holds"]


def test_the_findings_have_the_keys_that_were_agreed(honest: dict[str, Any]) -> None:
    agreed = ("epsilon_ledger", "epsilon_lower_white_box", "epsilon_lower_black_box", "confidence", "tpr_at_1pct_fpr")
    assert [type(honest[key]) for key in agreed] == [float] * len(agreed)
    assert isinstance(honest["control"], dict)
    assert set(honest["membership"]) == {"with_privacy", "without_privacy"}
    json.dumps(honest)


def test_canaries_outside_see_the_noise_that_was_charged(honest: dict[str, Any]) -> None:
    for part in ("job_rounds", "full_step"):
        found = honest["white_box"][part]
        assert found["noise_multiplier_measured"] == pytest.approx(found["noise_multiplier"], rel=0.1)
        assert found["noise_correlation"] < 0.2


def test_the_estimate_from_random_directions_is_about_the_epsilon_of_the_ledger(honest: dict[str, Any]) -> None:
    assert 2.0 < honest["random_directions"]["epsilon_estimate"] < 6.5


def test_half_the_noise_is_caught(
    experiment: Experiment, session: ModelSession, honest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = dpsgd.gaussian_mechanism

    def half(total: np.ndarray, *, noise_multiplier: float, **more: Any) -> Any:
        released, event = right(total, noise_multiplier=noise_multiplier / 2, **more)
        return released, replace(event, noise_multiplier=noise_multiplier)

    monkeypatch.setattr(dpsgd, "gaussian_mechanism", half)
    found = audit(experiment, session, asked())
    assert found["refuted"]
    assert found["white_box"]["job_rounds"]["noise_refuted"]
    assert found["epsilon_lower_white_box"] > 1.4 * honest["epsilon_lower_white_box"]
    assert found["random_directions"]["epsilon_estimate"] > 6.5


def test_a_clip_of_the_batch_in_place_of_the_record_is_caught(
    experiment: Experiment, session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the batch is clipped and the noise made for one record added, as a plain framework would."""

    def batch_clipped(self: ClippedGradientSum, gradients: torch.Tensor, *_: object, **__: object) -> None:
        factor = min(1.0, float((self._clip_norm or 1.0) / gradients.mean(0).norm()))
        self._sum.add_(factor * gradients.sum(0))

    monkeypatch.setattr(ClippedGradientSum, "add_piece", batch_clipped)
    found = audit(experiment, session, asked())
    assert found["refuted"]
    assert found["white_box"]["full_step"]["probes"]["many_guesses"]["epsilon_lower"] > found["epsilon_ledger"]


def test_canaries_under_a_hostile_job_prove_no_more_than_the_ledger_says(
    experiment: Experiment, session: ModelSession
) -> None:
    found = audit(experiment, session, replace(asked(), hostile=True))
    assert found["settings"]["hostile"]
    assert found["control"]["clip_norm"] == 1e-6
    assert 0.5 < found["epsilon_lower_white_box"] < found["epsilon_ledger"] <= 4.0
    assert found["control_holds"]
    assert not found["refuted"]


def test_canaries_under_a_hostile_job_that_switched_the_noise_off_prove_more_than_the_ledger_says(
    experiment: Experiment, session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = dpsgd.gaussian_mechanism

    def none(total: np.ndarray, **more: Any) -> Any:
        return total, right(total, **more)[1]

    monkeypatch.setattr(dpsgd, "gaussian_mechanism", none)
    found = audit(experiment, session, replace(asked(), hostile=True))
    assert found["refuted"]
    assert found["white_box"]["full_step"]["probes"]["many_guesses"]["epsilon_lower"] > found["epsilon_ledger"]


def test_the_control_samples_and_rounds_as_its_source_does_and_adds_no_noise() -> None:
    control, source = Noiseless(SeededSource(b"control")), SeededSource(b"control")
    assert not control.gaussian(5).any()
    assert not control.skellam(SkellamTable(9), 5).any()
    np.testing.assert_array_equal(control.words(5), source.words(5))
    np.testing.assert_array_equal(control.uniform(5), source.uniform(5))


def test_the_same_noise_in_every_round_is_caught(experiment: Experiment, session: ModelSession) -> None:
    class Repeating(SeededSource):
        """Draws the noise of each length once and hands it out for ever; random directions have their own length."""

        def gaussian(self, n: int) -> np.ndarray:
            if not hasattr(self, "_kept"):
                self._kept: dict[int, np.ndarray] = {}
            if n not in self._kept:
                self._kept[n] = super().gaussian(n)
            return self._kept[n]

    found = audit(experiment, session, replace(asked(), source=Repeating(b"again")))
    assert found["refuted"]
    assert found["white_box"]["job_rounds"]["noise_correlation"] > 0.99
    assert found["white_box"]["job_rounds"]["probes"]["repeated_noise"]["epsilon_lower"] > 3.0


def test_every_round_is_charged_to_a_real_ledger(
    experiment: Experiment, session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rides = carrier(experiment.job, session, experiment, tmp_path)
    done: list[tuple[int, int]] = []
    rides = replace(rides, on_round=lambda n, total: done.append((n, total)))
    source = SeededSource(b"ledger")
    directions = Dirac(10, rides.dimension, source)
    seen = attack(rides, directions, np.ones(10, np.bool_), source)
    assert done[-1] == (9, 9)  # Eight rounds and the spare one.
    assert seen.products.shape == (9, 10)
    assert seen.epsilon_ledger == pytest.approx(4.0, rel=2e-3)
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_canaries_that_are_in_shift_their_products_by_the_clip_norm_and_others_not_at_all(
    experiment: Experiment, session: ModelSession, tmp_path: Path
) -> None:
    rides = carrier(
        override(experiment.job, {"privacy.clip_norm": 0.3}), session, experiment, tmp_path, full_batch=True
    )
    source = SeededSource(b"shift")
    for directions in (Dirac(4000, rides.dimension, source), RandomDirections(1000, rides.dimension, source)):
        included = source.uniform(len(directions)) < 0.5
        products = attack(rides, directions, included, source).products[0]
        assert products[included].mean() == pytest.approx(1.0, abs=0.25)
        assert products[~included].mean() == pytest.approx(0.0, abs=0.25)


def test_dirac_canaries_do_not_overlap_and_are_no_more_than_the_coordinates() -> None:
    directions = Dirac(50, 60, SeededSource(b"dirac"))
    rows = directions.rows(np.arange(50))
    np.testing.assert_array_equal(rows @ rows.T, np.eye(50))
    vector = np.arange(60.0)
    np.testing.assert_allclose(directions.products(vector), rows @ vector)
    with pytest.raises(ConfigError, match="more canaries than trained coordinates"):
        Dirac(61, 60, SeededSource(b"dirac"))


def test_a_job_without_privacy_makes_no_claim_to_audit(experiment: Experiment) -> None:
    with pytest.raises(ConfigError, match="makes no claim"):
        for_attack(override(experiment.job, {"privacy.noise": "none"}))


def test_half_of_the_candidates_get_a_wrong_label_and_half_of_them_are_in(experiment: Experiment) -> None:
    pool = {(r.prompt, r.response) for site in experiment.sites for r in site.train}
    found = candidates(experiment.job, experiment.sites, 1000, SeededSource(b"coins"))
    assert len(found.records) == 54
    assert found.canary.sum() == 27
    wrong = [r for r, c in zip(found.records, found.canary, strict=True) if c]
    assert not any((r.prompt, r.response) in pool for r in wrong)
    assert 15 <= found.included.sum() <= 39


def test_a_training_that_learnt_its_members_by_heart_is_found_out() -> None:
    included = np.arange(400) % 2 == 0
    found = Candidates((), included, np.zeros(400, np.bool_))
    noise = np.random.default_rng(1).normal(size=400)
    learnt = membership(Losses(np.zeros(400), noise - 8.0 * included, None), found)
    blind = membership(Losses(np.zeros(400), noise, None), found)
    assert learnt["auc"] > 0.99
    assert learnt["tpr_at_1pct_fpr"] > 0.95
    assert blind["auc"] == pytest.approx(0.5, abs=0.1)
    assert blind["tpr_at_1pct_fpr"] < 0.1


def test_random_directions_are_unit_vectors_that_estimate_nothing_where_they_are_out(
    experiment: Experiment, session: ModelSession, tmp_path: Path
) -> None:
    rides, source = carrier(experiment.job, session, experiment, tmp_path, full_batch=True), SeededSource(b"out")
    directions = RandomDirections(300, rides.dimension, source)
    np.testing.assert_allclose(np.linalg.norm(directions.rows(np.arange(300)), axis=1), 1.0, rtol=1e-5)
    seen = attack(rides, directions, np.zeros(300, np.bool_), source)
    assert epsilon_from_cosines(seen.cosines, seen.dimension, 1e-5) < 2.0  # Cosines of 300 directions scatter.


def test_the_findings_fit_eighty_columns_and_say_what_they_mean(honest: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_audit(honest, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "Nothing refutes the claim" in text
    print_audit(honest | {"refuted": True}, console)
    assert "REFUTED" in console.export_text()


def test_the_command_prints_json_and_fails_where_the_claim_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_sites(tmp_path / "sites", {"north": 12, "east": 12})
    line = ["audit", "--data", str(data), "--base", "tiny", "--canaries", "200", "--records", "0", "--epsilon", "4"]
    monkeypatch.setattr(auditing, "LEAST_CONTROL", 1000.0)
    monkeypatch.setitem(TINY_SETTINGS, "federation.rounds", 2)
    done = CliRunner().invoke(command(), [*line, "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["epsilon_lower_black_box"] is None
    assert not found["control_holds"]
    monkeypatch.setattr(auditing, "LEAST_CONTROL", 2.5)
    assert CliRunner().invoke(command(), line).exit_code == 0
