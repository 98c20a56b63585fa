"""The comparisons: who takes part in each, with how much noise, and on whose ledger."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulations.conftest import Run
from yoriai import wire
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.task_defaults import head_rate, settled
from yoriai.config import JobConfig, override
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.run.compare import Comparison, comparisons, wanted
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.simulated_federation import Federation


def federation(folder: Path, noise: str = "local") -> Federation:
    """Two sites on paper."""
    sites = tuple(SiteRecords(name, (Record(text=name),) * 20, (Record(text=name),)) for name in ("x", "y"))
    job = override(JobConfig(name="tiny"), {"privacy.noise": noise, "federation.participation": 0.5})
    return Federation(job, sites, wire.Roster(serial=1, weights={"x": 2, "y": 3}), folder, "run", engine="flower")


def by_name(folder: Path, noise: str = "local") -> dict[str, Comparison]:
    """The comparisons by name."""
    return {comparison.name: comparison for comparison in comparisons(federation(folder, noise))}


def test_a_private_federation_is_compared_with_four_trainings(tmp_path: Path) -> None:
    found = by_name(tmp_path)
    assert list(found) == ["local", "federated_no_privacy", "central", "central_no_privacy"]
    noise = {name: {f.job.privacy.noise for f, _ in c.federations} for name, c in found.items()}
    assert noise == {
        "local": {"local"},
        "federated_no_privacy": {"none"},
        "central": {"local"},
        "central_no_privacy": {"none"},
    }


def test_shared_noise_is_compared_with_full_noise_at_each_site_too_and_nobody_alone_shares_any(tmp_path: Path) -> None:
    found = by_name(tmp_path, "distributed")
    noise = {name: {f.job.privacy.noise for f, _ in c.federations} for name, c in found.items()}
    assert noise == {
        "local": {"local"},
        "federated_local_noise": {"local"},
        "federated_no_privacy": {"none"},
        "central": {"local"},
        "central_no_privacy": {"none"},
    }
    folders = [f.folder for c in found.values() for f, _ in c.federations]
    assert len(set(folders)) == len(folders)
    ((whole, _),) = found["federated_local_noise"].federations
    assert whole.job.secure_aggregation.enabled


def test_without_privacy_only_those_without_are_left(tmp_path: Path) -> None:
    assert list(by_name(tmp_path, "none")) == ["local", "central_no_privacy"]


@pytest.mark.parametrize("noise", ["local", "none"])
def test_the_last_one_is_always_the_same(tmp_path: Path, noise: str) -> None:
    assert list(by_name(tmp_path, noise))[-1] == "central_no_privacy"


def head_job(**settings: object) -> JobConfig:
    """A job whose head trains, settled for a thousand records or more at two sites that have 20 each."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    task = {"task.kind": "classify", "task.labels": ("x", "y", "z"), "task.head": "trained"}
    job = override(JobConfig(name="tiny"), {**task, "training.records_per_weight": 500, **dotted})
    return settled(job, sites=2, units=2500)  # Weights of 2 and 3, as below.


def rates(job: JobConfig, folder: Path) -> dict[str, float]:
    """The step size of each comparison, and of the run itself; that of its first site stands for `local`."""
    run = replace(federation(folder), job=job)
    found = {c.name: c.federations[0][0].job.federation.server_learning_rate for c in comparisons(run)}
    return {"federated": job.federation.server_learning_rate, **found}


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_each_training_of_a_head_has_the_rate_of_its_own_size_and_noise(tmp_path: Path, noise: str) -> None:
    job = head_job(privacy__noise=noise)
    found = rates(job, tmp_path)
    for comparison in comparisons(replace(federation(tmp_path), job=job)):
        for made, _ in comparison.federations:
            weights, unit = made.roster.weights, made.job.training.records_per_weight
            wanted = head_rate(made.job, sites=len(made.sites), units=sum(weights.values()) * unit)
            assert made.job.federation.server_learning_rate == wanted
    assert found["federated_no_privacy"] == found["central_no_privacy"] == 13.0  # 160 over 12 rounds.
    assert found["federated"] > found["central"] >= found["local"]  # 2,500 records, forty and twenty.


def test_a_lone_sites_head_is_sized_by_its_own_records_or_owners(tmp_path: Path) -> None:
    run = replace(federation(tmp_path, "distributed"), job=head_job(privacy__noise="distributed"))
    (_, second), (central,) = (c.federations for c in comparisons(run, ("local", "central")))
    for (made, _), units in ((second, 20), (central, 40)):
        assert made.job.training.records_per_weight == units
        assert list(made.roster.weights.values()) == [1]
        assert made.job.privacy.noise == "local"
    owned = tuple(
        replace(site, train=tuple(Record(text="t", owner=f"o{n % 7}") for n in range(20))) for site in run.sites
    )
    by_owner = replace(run, sites=owned, job=head_job(privacy__unit="owner"))
    (alone, _) = next(comparisons(by_owner, ("local",))).federations[0]
    assert alone.job.training.records_per_weight == 7


def test_a_rate_that_the_job_names_is_that_of_every_training(tmp_path: Path) -> None:
    job = head_job(federation__server_learning_rate=1.25, federation__server_learning_rate_without_noise=2.5)
    assert set(rates(job, tmp_path).values()) == {1.25}
    job_of = {c.name: c.federations[0][0].job for c in comparisons(replace(federation(tmp_path), job=job))}
    assert job_of["central_no_privacy"].federation.server_learning_rate_without_noise == 2.5


def test_an_adapters_rate_is_the_same_everywhere(tmp_path: Path) -> None:
    job = override(federation(tmp_path).job, {"task.kind": "lm"})
    assert len(set(rates(settled(job), tmp_path).values())) == 1


def test_without_being_asked_a_head_alone_is_compared_and_with_each_site_alone_only() -> None:
    head, adapter = head_job(), JobConfig(name="tiny")
    assert Options().each_alone(head)
    assert not Options().each_alone(adapter)
    assert wanted(head, every=False, alone=True) == ("local",)
    assert wanted(head, every=False, alone=False) == ()
    assert wanted(head, every=True, alone=False) == wanted(head, every=True, alone=True)


@pytest.mark.parametrize("asked", [True, False])
def test_whoever_asks_has_each_site_trained_alone_or_not_whatever_trains(asked: bool) -> None:
    assert Options(alone=asked).each_alone(head_job()) is Options(alone=asked).each_alone(JobConfig(name="t")) is asked


def test_a_site_alone_keeps_its_records_weight_and_steps(tmp_path: Path) -> None:
    (alone, tested), (_, other) = by_name(tmp_path)["local"].federations
    assert (tested, other) == (("x",), ("y",))
    assert [site.name for site in alone.sites] == ["x"]
    assert alone.roster.weights == {"x": 2}
    assert alone.job.federation.rounds == federation(tmp_path).job.federation.rounds
    assert (alone.job.federation.min_sites, alone.job.federation.participation) == (1, 1.0)


def test_one_place_has_all_training_records_and_is_tested_everywhere(tmp_path: Path) -> None:
    ((pooled, tested),) = by_name(tmp_path)["central"].federations
    assert tested == ("x", "y")
    assert [len(site.train) for site in pooled.sites] == [40]
    assert list(pooled.roster.weights.values()) == [5]


def test_every_federation_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [f.folder for c in by_name(tmp_path).values() for f, _ in c.federations]
    assert len(set(folders)) == len(folders) == 5
    assert all(folder.is_relative_to(tmp_path / "compare") for folder in folders)


def test_comparisons_charge_nothing_to_the_sites_own_ledgers(run: Run) -> None:
    for folder, count in ((run.folder, 3), (run.folder / "compare" / "local-a", 3)):
        with Ledger.existing(folder / "ledgers" / "a.sqlite") as ledger:
            assert len(ledger.charges()) == count
    ledgers = {path.relative_to(run.folder).as_posix() for path in (run.folder / "compare").rglob("*.sqlite")}
    assert "compare/central/ledgers/all.sqlite" in ledgers
