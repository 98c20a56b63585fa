"""What a job leaves open is settled, and what does not go together is refused, before any model is loaded."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.world import write_records, write_sites
from yoriai import cli
from yoriai.config import JobConfig, job_to_toml, override
from yoriai.errors import ConfigError
from yoriai.simulations import scenarios
from yoriai.simulations.experiment.experiment import DataSource, noise_multiplier, resolve
from yoriai.simulations.run import run_folder
from yoriai.simulations.run.run_folder import StoredRun
from yoriai.simulations.scenarios import SCENARIOS, Scenario
from yoriai.simulations.scenarios.partition import Record, SiteRecords


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    """Sixty records of two plants and three labels."""
    labels = ("leak", "noise", "crack")
    return write_records(
        tmp_path / "orders.jsonl",
        [{"prompt": f"order {n}", "response": labels[n % 3], "plant": f"P{n % 2}"} for n in range(60)],
    )


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.5"])
def test_one_file_is_dealt_out_and_split(one_file: Path, how: str) -> None:
    experiment = resolve(None, DataSource(one_file, 4, how))
    assert len(experiment.sites) == 4
    assert sum(len(site.train) + len(site.test) for site in experiment.sites) == 60
    assert experiment == resolve(None, DataSource(one_file, 4, how))
    assert experiment.sites != resolve(None, DataSource(one_file, 4, how, seed=1)).sites


def test_by_field_makes_a_site_of_each_value(one_file: Path) -> None:
    experiment = resolve(None, DataSource(one_file, partition="by:plant"))
    assert [(site.name, len(site.train), len(site.test)) for site in experiment.sites] == [("P0", 24, 6), ("P1", 24, 6)]


def test_by_field_gives_sites_names_that_files_can_have(tmp_path: Path) -> None:
    values = ("../../etc", "Werk Süd")
    rows: list[dict[str, object]] = [{"text": f"order {n}", "plant": values[n % 2]} for n in range(20)]
    experiment = resolve(None, DataSource(write_records(tmp_path / "o.jsonl", rows), partition="by:plant"))
    assert [site.name for site in experiment.sites] == ["Werk-S-d", "etc"]
    assert [site.shown for site in experiment.sites] == ["Werk Süd", "../../etc"]


def test_kind_and_labels_are_read_off_all_records_and_said(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20})
    with (folder / "b" / "test.jsonl").open("a") as file:
        file.write('{"prompt": "winch", "response": "winch"}\n')
    experiment = resolve(None, DataSource(folder))
    assert experiment.job.task.kind == "classify"
    # A label that only test records have would otherwise stop the run.
    assert experiment.job.task.labels == ("cabin", "engine", "pump", "winch")
    assert experiment.labels_from_records
    assert "distinct responses" in experiment.reason


def test_listed_labels_stay_as_they_are(tmp_path: Path) -> None:
    job = override(JobConfig(name="j"), {"task.kind": "classify", "task.labels": ["pump", "engine", "cabin", "x"]})
    experiment = resolve(job, DataSource(write_sites(tmp_path / "s", {"a": 30, "b": 20})))
    assert experiment.job.task.labels == ("pump", "engine", "cabin", "x")
    assert (experiment.labels_from_records, experiment.reason) == (False, "The job says so.")


def test_settings_override_the_job(tmp_path: Path) -> None:
    job = override(JobConfig(name="j"), {"privacy.epsilon": 2.0, "federation.rounds": 9})
    experiment = resolve(job, DataSource(write_sites(tmp_path / "s", {"a": 30, "b": 20})), {"federation.rounds": 4})
    assert (experiment.job.privacy.epsilon, experiment.job.federation.rounds) == (2.0, 4)


def test_weights_are_public_units_of_records(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 34, "b": 4})
    experiment = resolve(override(JobConfig(name="j"), {"training.records_per_weight": 10}), DataSource(folder))
    assert experiment.roster().weights == {"a": 3, "b": 1}


def test_a_unit_too_small_for_the_largest_site_is_refused(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 300, "b": 4})
    job = override(JobConfig(name="j"), {"training.records_per_weight": 1})
    with pytest.raises(ConfigError, match="at least 2"):
        resolve(job, DataSource(folder)).roster()
    assert max(resolve(None, DataSource(folder)).roster().weights.values()) <= 255


def test_noise_covers_the_spare_rounds_too() -> None:
    job = override(JobConfig(name="j"), {"federation.rounds": 3, "training.sampling_rate": 0.5})
    more = override(job, {"privacy.spare_rounds": 2})
    assert (noise_multiplier(more) or 0) > (noise_multiplier(job) or 0) > 0.5
    assert noise_multiplier(override(job, {"privacy.noise": "none"})) is None


def test_an_epsilon_for_a_job_without_noise_asks_for_some_and_leaves_another_mode_alone(tmp_path: Path) -> None:
    source = DataSource(write_sites(tmp_path / "sites", {"a": 30, "b": 30, "c": 30}))
    bare = override(JobConfig(name="j"), {"privacy.noise": "none"})
    shared = override(
        JobConfig(name="j"),
        {"privacy.noise": "distributed", "training.records_per_weight": 30, "federation.min_sites": 3},
    )
    settings = {"privacy.epsilon": 2.0}
    assert resolve(bare, source, settings).job.privacy.noise == "local"
    assert resolve(shared, source, settings).job.privacy.noise == "distributed"
    assert resolve(bare, source).job.privacy.noise == "none"


def test_distributed_noise_without_a_job_file_needs_all_sites_and_counts_them_alike(tmp_path: Path) -> None:
    source = DataSource(write_sites(tmp_path / "sites", {"a": 40, "b": 10, "c": 16}))
    found = resolve(None, source, {"privacy.noise": "distributed"})
    assert found.roster().weights == {"a": 1, "b": 1, "c": 1}
    assert found.job.federation.min_sites == 3
    assert found.job.training.records_per_weight == 22


def test_batches_larger_than_the_words_are_made_for_are_refused(tmp_path: Path) -> None:
    source = DataSource(write_sites(tmp_path / "sites", {"a": 40, "b": 40}))
    settings = {"privacy.noise": "distributed", "training.records_per_weight": 10}
    with pytest.raises(ConfigError, match="records_per_weight is too small"):
        resolve(override(JobConfig(name="j"), settings), source)
    settings["training.records_per_weight"] = 20
    assert resolve(override(JobConfig(name="j"), settings), source).job.privacy.noise == "distributed"


def test_the_digest_of_records_sees_every_change(tmp_path: Path) -> None:
    experiment = resolve(None, DataSource(write_sites(tmp_path / "sites", {"a": 30, "b": 20})))
    a, b = experiment.sites
    others = [
        (replace(a, train=a.train[:-1]), b),
        (replace(a, train=a.train[::-1]), b),
        (replace(a, train=(*a.train, a.test[0]), test=a.test[1:]), b),
        (replace(a, name="c"), b),
        (replace(a, test=(replace(a.test[0], prompt="other"), *a.test[1:])), b),
    ]
    digests = {replace(experiment, sites=sites).records_digest() for sites in ((a, b), *others)}
    assert len(digests) == 6
    assert experiment.records_digest() == replace(experiment, reason="other").records_digest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"privacy.delta": 1 / 30}, r"delta is not below 1 / \(training records of site a\).*lower privacy.delta"),
        ({"privacy.epsilon": -1.0}, "epsilon"),
        ({"federation.min_sites": 3}, "min_sites"),
        ({"federation.rule": "nope"}, "nope"),
        ({"federation.min_sites": 1}, "secure aggregation needs at least two sites"),
        ({"training.proximal_mu": 0.1}, "proximal_mu pulls local steps after the first"),
    ],
)
def test_settings_that_do_not_go_with_the_records(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20})
    with pytest.raises(ConfigError, match=message):
        resolve(None, DataSource(folder), settings)


def test_delta_does_not_matter_without_privacy(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20})
    assert resolve(None, DataSource(folder), {"privacy.delta": 0.5, "privacy.noise": "none"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataSource(sites=3), "--data"),
        (DataSource(partition="iid"), "--data"),
        (DataSource(prompt_field="x"), "--data"),
        (DataSource(scenario="commands", sites=3), "--data"),
        (DataSource(scenario="nope"), "no such scenario.*'nope'.*commands or excavators"),
        (DataSource(Path("orders"), scenario="commands"), "commands brings its own records"),
    ],
)
def test_settings_of_own_records_need_own_records(source: DataSource, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(None, source)


def test_ways_to_name_records_that_do_not_go_together(one_file: Path, tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20})
    for source, message in (
        (DataSource(folder, 2), "folder of sites"),
        (DataSource(folder, partition="by:plant"), "folder of sites"),
        (DataSource(one_file), "--sites N"),
        (DataSource(one_file, partition="iid"), "--sites N"),
        (DataSource(one_file, 2, "even"), "unknown partition"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(None, source)


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A scenario beside the known ones, whose records show the seed that they were asked for."""

    def sites(seed: int = 0, *, validation: bool = False) -> tuple[SiteRecords, ...]:
        train = tuple(Record(prompt=f"order {n}", response=("a", "b")[n % 2]) for n in range(20))
        test = (Record(prompt=f"seed {seed} {validation}", response="a"),)
        return tuple(SiteRecords(name, train, test) for name in ("north", "south"))

    def job() -> JobConfig:
        return override(JobConfig(name="tiny-job"), {"task.kind": "classify", "task.labels": ["a", "b"]})

    scenario = Scenario("tiny", "Tiny title", "MIT", "a test", sites, job)
    monkeypatch.setattr(scenarios, "SCENARIOS", {**SCENARIOS, "tiny": scenario})
    return scenario


@pytest.mark.usefixtures("ready")
def test_a_scenario_brings_its_records_its_job_and_its_title() -> None:
    experiment = resolve(None, DataSource(seed=3, scenario="tiny"))
    assert [site.name for site in experiment.sites] == ["north", "south"]
    assert experiment.sites[0].test[0].prompt == "seed 3 False"
    assert (experiment.job.name, experiment.job.task.labels) == ("tiny-job", ("a", "b"))
    assert (experiment.data.title, experiment.data.licence, experiment.data.source) == ("Tiny title", "MIT", "a test")


def test_scenarios_go_by_their_own_names_and_jobs_by_theirs() -> None:
    assert {name: (ready.name, ready.job().name) for name, ready in SCENARIOS.items()} == {
        name: (name, name) for name in ("excavators", "commands", "findings")
    }


def _store(folder: Path, source: DataSource) -> None:
    folder.mkdir()
    run_folder.store(folder, JobConfig(name="j"), StoredRun("j-1", source, "inprocess", False, "why", False, "00"))


def test_a_run_is_resumed_with_its_scenario(tmp_path: Path) -> None:
    _store(tmp_path / "run", DataSource(seed=2, scenario="commands"))
    assert run_folder.load(tmp_path / "run")[1].data == DataSource(seed=2, scenario="commands")


def test_a_run_stored_before_there_were_scenarios_has_the_excavators(tmp_path: Path) -> None:
    _store(tmp_path / "run", DataSource(seed=2))
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    del stored["data"]["scenario"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    assert run_folder.load(tmp_path / "run")[1].data == DataSource(seed=2, scenario="excavators")


@pytest.mark.parametrize(("stored_alone", "head"), [(True, True), (True, False), (False, True), (None, True)])
def test_a_run_that_stored_alone_for_heads_is_resumed_so(stored_alone: bool | None, head: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    job = override(JobConfig(name="j"), {"task.kind": "classify", "task.head": "trained" if head else "labels"})
    run_folder.store(folder, job, StoredRun("j-1", DataSource(), "inprocess", False, "why", False, "00"))
    stored = json.loads((folder / "run.json").read_text())
    del stored["each_alone"]
    (folder / "run.json").write_text(json.dumps(stored if stored_alone is None else stored | {"alone": stored_alone}))
    assert run_folder.load(folder)[1].each_alone is (head and stored_alone is not False)


@pytest.mark.parametrize("command", ["simulate", "job check"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Even where the scenario is the one that would have been taken anyway.
        (("--data", "orders", "--scenario", "excavators"), "--scenario and --data both name the records"),
        (("--scenario", "nope"), "no such scenario; found 'nope'; expected commands or excavators"),
    ],
)
def test_scenarios_on_the_command_line(
    command: str,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "job.toml").write_text(job_to_toml(JobConfig(name="j")))
    monkeypatch.setattr(sys, "argv", ["yoriai", *command.split(), str(tmp_path / "job.toml"), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
