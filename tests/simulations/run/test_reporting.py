"""The report says what the run did: who was charged what, what was cut, who stayed away, where the time went."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulations.conftest import Run
from tests.world import job_settings, write_sites
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.server.round.registry import Registry
from yoriai.simulations.experiment.description import base_of, describe
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.report.report import Report
from yoriai.simulations.run.measuring import Measurements, TestBench
from yoriai.simulations.run.reporting import Measured, build_report
from yoriai.simulations.run.simulated_federation import Outcome

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def experiment(base: Path, sites: Path) -> Experiment:
    """What the shared run ran."""
    return resolve(None, DataSource(sites), job_settings(base))


@pytest.fixture(scope="module")
def session(base: Path, experiment: Experiment) -> ModelSession:
    """The base in memory."""
    return ModelSession(load_base(str(base), device=choose_device("cpu")), experiment.job.speed)


@pytest.fixture(scope="module")
def outcome(run: Run) -> Outcome:
    """As the shared run left it."""
    checkpoint = Registry(run.folder).load()
    assert checkpoint is not None
    epsilon = {"a": 6.0, "b": 5.0, "c": 5.5}
    spending = {"a": [(1, 3.0), (2, 4.5), (3, 6.0)], "b": [(1, 3.0), (3, 5.0)], "c": [(3, 5.5)]}
    return Outcome(checkpoint, epsilon, spending, {}, {}, 1.25)


@pytest.fixture(scope="module")
def measured(run: Run, experiment: Experiment, session: ModelSession) -> Measured:
    """As the shared run left it, with times of our own."""
    return Measured(
        kept=Measurements(run.folder / "measurements.json"),
        bench=TestBench(experiment.job, experiment.sites, session, Silent()),
        seconds={"train": 10.0, "total": 30.0},
        site_seconds={"a": 4.0, "b": 3.0, "c": 2.5},
        cut={"a": 0, "b": 4, "c": 1},
        engine="inprocess",
    )


@pytest.fixture(scope="module")
def report(experiment: Experiment, session: ModelSession, outcome: Outcome, measured: Measured) -> Report:
    """Built anew."""
    return build_report(experiment, session, outcome, measured, created=NOW)


def test_it_equals_the_runs_own_report_in_what_was_measured(report: Report, run: Run) -> None:
    assert report.overall == run.report.overall
    assert report.paired == run.report.paired
    assert report.adapter == run.report.adapter
    assert report.job == run.report.job


def test_times_are_those_given_and_what_no_site_took_is_overhead(report: Report) -> None:
    assert [site.seconds for site in report.sites] == [4.0, 3.0, 2.5]
    assert report.seconds == {"train": 10.0, "total": 30.0, "sites": 9.5, "overhead": 0.5}


def test_flower_sites_leave_no_times(
    experiment: Experiment, session: ModelSession, outcome: Outcome, measured: Measured
) -> None:
    found = build_report(experiment, session, outcome, replace(measured, site_seconds={}), created=NOW)
    assert found.seconds == {"train": 10.0, "total": 30.0}
    assert [site.seconds for site in found.sites] == [0.0, 0.0, 0.0]


def test_epsilon_by_site_and_by_round(report: Report) -> None:
    assert {site.name: site.epsilon for site in report.sites} == {"a": 6.0, "b": 5.0, "c": 5.5}
    assert [r.epsilon for r in report.rounds] == [3.0, 4.5, 6.0]
    assert report.epsilon_spent == 6.0


def test_bytes_of_sites_and_of_rounds_are_the_same_bytes(report: Report) -> None:
    assert sum(site.bytes_up for site in report.sites) == sum(r.bytes_up for r in report.rounds)
    assert sum(site.bytes_down for site in report.sites) == sum(r.bytes_down for r in report.rounds)


def test_notes_tell_of_cut_records_labels_small_tests_and_absent_sites(
    experiment: Experiment, session: ModelSession, outcome: Outcome, measured: Measured
) -> None:
    found = build_report(experiment, session, replace(outcome, refused={"c": "budget"}), measured, created=NOW)
    notes = "\n".join(found.notes)
    assert "Records longer than 128 tokens were cut: b 4, c 1." in notes
    assert "label set was read off" in notes
    assert "Too few test records for a judgement by itself: a, b, c." in notes
    assert "Site c did not take part: budget" in notes


def test_a_packaged_base_has_its_own_licence_and_source() -> None:
    own = base_of("/models/own", "0" * 64)
    assert (own.name, own.source) == ("/models/own", "/models/own")
    assert base_of("smollm2-135m-instruct", "0" * 64).licence == "Apache-2.0"


def test_the_beginning_of_a_run_names_licences_task_and_cuts(experiment: Experiment) -> None:
    lines = describe(experiment, "0" * 64, 3)
    assert [line.split()[0] for line in lines] == ["base", "records", "task", "cut"]
    assert lines[3] == "cut      3 of 110 records are longer than 128 tokens and lose the rest"
    assert len(describe(experiment, "0" * 64, 0)) == 3


def test_a_site_without_test_records_is_in_the_report_without_a_score(base: Path, tmp_path: Path) -> None:
    from yoriai.simulations.run.api import simulate

    folder = write_sites(tmp_path / "sites", {"a": 12, "b": 12})
    rows = (folder / "a" / "train.jsonl").read_text().splitlines()
    assert rows
    (tmp_path / "one.jsonl").write_text(
        "\n".join(r[:-1] + f', "p": "{"x" if n < 10 else "y"}"}}' for n, r in enumerate(rows))
    )
    source = DataSource(tmp_path / "one.jsonl", partition="by:p")
    settings = job_settings(base, **{"privacy.noise": "none", "task.kind": "classify"}) | {"federation.rounds": 1}
    report = simulate(data=source, settings=settings, out=tmp_path / "run")
    assert [(site.name, site.test_records) for site in report.sites] == [("x", 2), ("y", 0)]
    assert report.sites[1].base.accuracy is None
    assert report.sites[1].majority is None
