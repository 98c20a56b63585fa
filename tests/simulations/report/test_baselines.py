"""What a user would pick instead stands in every report: the base, counting, and each site alone."""

import json
from pathlib import Path

import pytest

from tests.simulations.conftest import Run
from tests.simulations.report_fixture import changed, example_report
from tests.world import Notebook, Stop, job_settings
from yoriai.simulations.report.claims import claims
from yoriai.simulations.report.file import load_report
from yoriai.simulations.report.metrics import LABELS
from yoriai.simulations.report.report import TRAININGS, Report, Score, SiteReport
from yoriai.simulations.run.api import resume, simulate
from yoriai.simulations.run.options import Options

HEAD = {"task.head": "trained", "head.directions": 8, "head.words": 32, "public.written": 0}
COUNTED = ["naive_bayes_own", "naive_bayes_all", "naive_bayes_private"]
NAIVE = ["majority", "base", *COUNTED]


def head_settings(base: Path, **more: object) -> dict[str, object]:
    """A head that trains on the tiny base, in three rounds."""
    return job_settings(base, **{**HEAD, "federation.server_optimizer": "none", **more})


@pytest.fixture(scope="module")
def head_run(base: Path, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A head in three private rounds, as it is by default."""
    folder, heard = tmp_path_factory.mktemp("head") / "run", Notebook()
    report = simulate(
        data=sites, settings=head_settings(base), out=folder, options=Options(noise_seed=b"n"), observer=heard
    )
    return Run(folder, report, heard)


def test_every_training_has_a_place_at_each_site_and_a_name() -> None:
    assert set(TRAININGS) <= set(SiteReport.model_fields)
    assert set(LABELS) == set(TRAININGS)


def test_an_adapters_report_has_counting_beside_all_comparisons(run: Run) -> None:
    wanted = [*NAIVE, "local", "federated", "federated_no_privacy", "central", "central_no_privacy"]
    assert list(run.report.overall) == wanted
    for site in run.report.sites:
        for name in COUNTED:
            score = site.score(name)
            assert score is not None
            assert score.records == site.test_records
    # The words of these records name their label, so counting without noise is right everywhere.
    assert run.report.overall["naive_bayes_all"].accuracy == 1.0


def test_a_heads_report_has_each_site_alone_without_being_asked(head_run: Run) -> None:
    assert list(head_run.report.overall) == [*NAIVE, "local", "federated"]
    assert all(site.local is not None and site.local.records == site.test_records for site in head_run.report.sites)
    assert "compare  local" in head_run.heard.said
    assert load_report(head_run.folder) == head_run.report


def test_the_base_of_a_head_is_that_of_an_adapter_on_the_same_records(run: Run, head_run: Run) -> None:
    for adapter, head in [
        (run.report.overall["base"], head_run.report.overall["base"]),
        *((one.base, other.base) for one, other in zip(run.report.sites, head_run.report.sites, strict=True)),
    ]:
        assert (head.accuracy, head.records) == (adapter.accuracy, adapter.records)
        assert head.loss == pytest.approx(adapter.loss, rel=1e-4)


def test_a_head_may_be_left_uncompared_and_be_compared_with_everything_later(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    report = simulate(data=sites, settings=head_settings(base), out=folder, options=Options(alone=False))
    assert list(report.overall) == [*NAIVE, "federated"]
    assert not (folder / "compare").exists()
    assert resume(folder) == report
    later = resume(folder, compare=True)
    assert list(later.overall)[5:] == ["local", "federated", "federated_no_privacy", "central", "central_no_privacy"]
    assert [later.overall[name] for name in (*NAIVE, "federated")] == [
        report.overall[name] for name in (*NAIVE, "federated")
    ]
    assert resume(folder, compare=True) == later


def test_a_run_that_was_stopped_at_a_lone_site_goes_on_there_with_the_same_figures(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):  # The federation's second round, then that of the first lone site.
        simulate(data=sites, settings=head_settings(base), out=folder, observer=Stop("rounds", 2, times=2))
    before = load_report(folder)
    assert "local" not in before.overall
    heard = Notebook()
    after = resume(folder, observer=heard)
    assert after.overall["local"].records == 36
    assert [after.overall[name] for name in NAIVE] == [before.overall[name] for name in NAIVE]
    assert after.overall["federated"] == before.overall["federated"]
    rounds = [done for what, done, total in heard.advances if what == "rounds" and total == 3]
    assert len(rounds) < 9  # Fewer than three rounds at three sites: what was stored is not trained again.


def test_shared_noise_is_compared_with_full_noise_in_the_report_too(base: Path, sites: Path, tmp_path: Path) -> None:
    settings = head_settings(base, **{"privacy.noise": "distributed", "federation.rounds": 1})
    report = simulate(data=sites, settings=settings, out=tmp_path / "run", options=Options(compare=True))
    assert set(report.overall) == set(TRAININGS)
    assert all(site.federated_local_noise is not None for site in report.sites)
    assert load_report(tmp_path / "run") == report


def test_without_privacy_nothing_is_counted_privately(base: Path, sites: Path, tmp_path: Path) -> None:
    settings = head_settings(base, **{"privacy.noise": "none", "federation.rounds": 1})
    report = simulate(data=sites, settings=settings, out=tmp_path / "run")
    assert list(report.overall) == ["majority", "base", *COUNTED[:2], "local", "federated"]
    assert all(site.naive_bayes_private is None for site in report.sites)


def test_texts_have_no_counting(base: Path, tmp_path: Path) -> None:
    records = "".join(json.dumps({"text": f"pump number {n} leaks oil"}) + "\n" for n in range(40))
    (tmp_path / "texts.jsonl").write_text(records)
    from yoriai.simulations.experiment.experiment import DataSource

    source = DataSource(tmp_path / "texts.jsonl", sites=2)
    settings = job_settings(base, **{"federation.rounds": 1})
    report = simulate(data=source, settings=settings, out=tmp_path / "run")
    assert list(report.overall) == ["base", "federated"]


def counted_report() -> Report:
    """With naive Bayes worse, alike and better than the federation's 0.55."""
    found = {name: Score.measured(418, accuracy=share) for name, share in zip(COUNTED, (0.3, 0.9, 0.55), strict=True)}
    whole = example_report(compare=False)
    return changed(whole, overall={**whole.overall, **found})


def test_counting_is_compared_with_the_federation_whichever_is_better() -> None:
    compared = [sentence for sentence in claims(counted_report()) if sentence.startswith("Compared: naive Bayes")]
    assert [sentence.rpartition(": ")[2] for sentence in compared] == [
        "the federation is better.",
        "no difference is shown.",
        "the federation is worse.",
    ]
    assert "none may pool" in compared[2]


def test_a_report_of_before_counting_is_read_as_it_was(tmp_path: Path) -> None:
    content = example_report().model_dump(mode="json", by_alias=True)
    for site in content["sites"]:
        for name in (*COUNTED, "federated_local_noise"):
            del site[name]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert load_report(tmp_path) == example_report()
