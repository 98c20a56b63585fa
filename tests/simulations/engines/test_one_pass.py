"""The one-pass engine: the in-process engine's run, bit for bit, with its ledgers."""

from pathlib import Path
from typing import Any

import pytest

from tests.simulations.miniature import Miniature
from tests.world import job_settings
from yoriai.errors import ConfigError, TrainingError
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.engines import one_pass
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.simulated_federation import Outcome

HEAD = {"task__head": "trained", "head__directions": 8, "head__words": 16}
SHARED = {"privacy__noise": "distributed", "privacy__clip_norm": 0.05, "training__records_per_weight": 14}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("mini"))


def run(mini: Miniature, folder: Path, engine: str, **settings: object) -> Outcome:
    return mini.run(mini.federation(folder, engine=engine, federation__rounds=2, training__local_steps=1, **settings))


@pytest.mark.parametrize(
    "settings",
    [HEAD, {**SHARED, "federation__min_sites": 4}, {"secure_aggregation__enabled": False}],
    ids=["head", "distributed noise", "in the clear"],
)
def test_a_run_ends_with_the_adapter_and_the_charges_of_the_in_process_engine(
    mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    passes: list[int] = []
    together = one_pass.train_together

    def counting(*arguments: Any) -> Any:
        passes.append(len(arguments[3]))
        return together(*arguments)

    monkeypatch.setattr(one_pass, "train_together", counting)
    found = run(mini, tmp_path / "one-pass", "one-pass", **settings)
    expected = run(mini, tmp_path / "inprocess", "inprocess", **settings)
    assert passes == [4, 4]
    assert found.checkpoint.adapter == expected.checkpoint.adapter
    assert found.epsilon == expected.epsilon
    assert found.seconds == {}
    with Ledger.existing(tmp_path / "one-pass" / "ledgers" / "north.sqlite") as ledger:
        assert [(charge.round_index, charge.released) for charge in ledger.charges()] == [(0, True), (1, True)]


def test_where_the_pass_fails_each_site_trains_alone(
    mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise TrainingError("a pass that fails")

    expected = run(mini, tmp_path / "inprocess", "inprocess")
    monkeypatch.setattr(one_pass, "train_together", failing)
    assert run(mini, tmp_path / "one-pass", "one-pass").checkpoint.adapter == expected.checkpoint.adapter


def test_a_job_of_several_local_steps_is_refused_before_the_folder_is_made(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="shares one local step"):
        simulate(
            data=sites,
            settings=job_settings(base, **{"training.local_steps": 3}),
            out=tmp_path / "run",
            options=Options(engine="one-pass"),
        )
    assert not (tmp_path / "run").exists()
