"""The way of a version by commands alone: a job's end, promotion, export, and a site that takes it into use."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.commands import yoriai
from tests.real_versions import consortium, finished_on
from tests.server.enrolling import NAMES
from tests.server.faulty import FaultyTransport
from tests.server.keepers import Keeper
from tests.server.versions_made import coordinate
from tests.world import job_settings, save_tiny_base
from yoriai.client.session.continuing import Start, going_on, job_from, read_start
from yoriai.client.session.prepare import prepare
from yoriai.config import JobConfig, load_job, override
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError
from yoriai.prepared_job import PreparedJob, read_prepared
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.jobs.submitting import submit
from yoriai.strategies.adapter import AdapterState

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A consortium, a server and two sites, all enrolled."""
    return consortium(tmp_path_factory.mktemp("way"), base)


def test_a_version_goes_from_a_jobs_end_to_a_sites_use_and_back(world: Path, base: Path, tmp_path: Path) -> None:
    machine, north, files = world / "server", world / "north", []
    assert yoriai("server", "export-version", machine).code == EXIT_BAD_INPUT  # It holds none yet.
    jobs = [finished_on(world, base, name) for name in ("first", "second")]
    for job in jobs:
        assert yoriai("server", "promote", machine, job.run_id, "--channel", "production").code == 0
        files.append(tmp_path / f"{job.run_id}.version")
        done = yoriai("server", "export-version", machine, "--out", files[-1], "--json")
        assert json.loads(done.screen)["run"] == job.run_id
        pulled = yoriai("site", "pull", north, files[-1], "--json")
        assert (pulled.code, pulled.screen and json.loads(pulled.screen)["run"]) == (0, job.run_id), pulled.screen
    link = north / "channels" / "production"
    assert json.loads((link / "task.json").read_text())["job"] == "second"
    assert ModelCard.load(link / "README.md").text.lstrip().startswith("# second")
    assert yoriai("site", "pull", north, files[0]).code == EXIT_REFUSED
    assert yoriai("site", "rollback", north).code == 0
    assert json.loads((link / "task.json").read_text())["job"] == "first"
    # The server's own rollback is a newer word than both, and comes by the same way.
    assert yoriai("server", "rollback", machine).code == 0
    assert yoriai("server", "export-version", machine, "--out", files[0]).code == 0
    assert yoriai("site", "pull", north, files[0]).code == 0
    rows = map(json.loads, yoriai("server", "log", machine, "--json").screen.splitlines())
    told = [row["event"] for row in rows if row["event"] in ("promoted", "rolled_back", "exported")]
    assert told == ["promoted", "exported", "promoted", "exported", "rolled_back", "exported"]
    assert yoriai("server", "log", machine, "--verify").code == 0


def _exported(world: Path, job: StoredJob, file: Path) -> Path:
    machine = world / "server"
    assert yoriai("server", "promote", machine, job.run_id, "--channel", "production").code == 0
    assert yoriai("server", "export-version", machine, "--out", file).code == 0
    return file


def test_a_job_goes_on_from_a_version_and_its_version_names_its_parent(world: Path, base: Path, tmp_path: Path) -> None:
    machine, parent = ServerFolder(world / "server"), finished_on(world, base, "parent", **{"training.seed": 5})
    file = _exported(world, parent, tmp_path / "parent.version")
    job, prepared = tmp_path / "child.toml", tmp_path / "child.prepared"
    assert yoriai("job", "init", job, "--from", file).code == 0
    digest = json.loads(yoriai("server", "show", machine.path, parent.run_id, "--json").screen)["statement"]["subject"]
    start = digest[0]["digest"]["yoriaiAdapter1"]
    assert load_job(job).base.start == start
    done = yoriai("job", "prepare", job, "--from", file, "--out", prepared)
    assert done.code == 0, done.screen
    first = read_prepared(prepared.read_bytes())
    assert AdapterState.from_bytes(first.adapter).digest() == start
    stored = submit(machine.path, first, lambda _prepared, _sites: 1.0)
    stored.change(phase="starting")
    coordinate(machine, stored, FaultyTransport({site_: Keeper(site_) for site_ in NAMES}, {}))
    shown = json.loads(yoriai("server", "show", machine.path, stored.run_id, "--json").screen)
    assert shown["statement"]["predicate"]["parent"] == start
    assert shown["lineage"] == [parent.run_id]
    first_step, second_step = shown["chain"]
    assert (first_step["run"], second_step["run"]) == (parent.run_id, stored.run_id)
    assert first_step["together"] < second_step["together"] < 2 * first_step["together"]
    listed = tmp_path / "chain.json"
    listed.write_text(yoriai("server", "show", machine.path, stored.run_id, "--json").screen)
    assert yoriai("report", listed).code == 0
    page = (tmp_path / "chain.html").read_text()
    assert parent.run_id in page
    assert stored.run_id in page
    child = _exported(world, stored, tmp_path / "child.version")
    assert yoriai("site", "pull", world / "north", child).code == 0
    assert (world / "north" / "channels" / "production" / "lineage.1").is_file()


def test_a_job_that_goes_on_is_refused_without_the_versions_file(world: Path, base: Path, tmp_path: Path) -> None:
    file = _exported(world, finished_on(world, base, "alone"), tmp_path / "alone.version")
    job = tmp_path / "job.toml"
    assert yoriai("job", "init", job, "--from", file).code == 0
    done = yoriai("job", "prepare", job)
    assert (done.code, "base.start: the job goes on from a version" in done.screen) == (EXIT_BAD_INPUT, True)
    assert yoriai("job", "prepare", file, "--from", file).code == EXIT_BAD_INPUT


def _start(world: Path, base: Path, tmp_path: Path, name: str) -> Start:
    file = _exported(world, finished_on(world, base, name), tmp_path / f"{name}.version")
    return read_start(file.read_bytes())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"task.labels": ("pump", "cabin")}, "task.labels"),
        ({"task.template": "{prompt} is in the"}, "task.template"),
        ({"lora.alpha": 8.0, "federation.rule": "core"}, "rule or head, lora"),
        ({"base.start": "0" * 64}, "another version"),
    ],
)
def test_a_job_that_trains_something_else_cannot_go_on(
    changes: dict[str, object], what: str, world: Path, base: Path, tmp_path: Path
) -> None:
    start = _start(world, base, tmp_path, "unlike")
    assert going_on(override(job_from(start), {"federation.rounds": 9, "privacy.epsilon": 3.0}), start)
    with pytest.raises(ConfigError, match=what):
        going_on(override(job_from(start), changes), start)


def test_a_job_on_another_base_cannot_go_on(world: Path, base: Path, tmp_path: Path) -> None:
    start = _start(world, base, tmp_path, "elsewhere")
    other = save_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="the base has another weights or configuration"):
        prepare(override(job_from(start), {"base.model": str(other)}), start)


def test_the_server_takes_no_job_that_goes_on_from_elsewhere(world: Path, base: Path, tmp_path: Path) -> None:
    machine, start = ServerFolder(world / "server"), _start(world, base, tmp_path, "foreign")
    job = going_on(job_from(start), start)
    other = AdapterState({name: tensor + 1 for name, tensor in start.adapter.tensors.items()})
    wrong = PreparedJob(job, start.base_digest, other.to_bytes(), 1.0)
    with pytest.raises(ConfigError, match=r"not the one of base\.start"):
        submit(machine.path, wrong, lambda _prepared, _sites: 1.0)
    for prepared in (
        PreparedJob(override(job, {"base.start": other.digest()}), start.base_digest, other.to_bytes(), 1.0),
        PreparedJob(job, "0" * 64, start.adapter.to_bytes(), 1.0),
    ):
        with pytest.raises(ConfigError, match="no version of this server, or is one of another base"):
            submit(machine.path, prepared, lambda _prepared, _sites: 1.0)


def test_a_job_that_begins_anew_has_the_digest_that_it_always_had() -> None:
    assert "start" not in JobConfig(name="a").model_dump()["base"]


def test_a_site_with_another_base_takes_nothing(world: Path, base: Path, tmp_path: Path) -> None:
    machine, south = world / "server", world / "south"
    job = finished_on(world, base, "third")
    assert yoriai("server", "promote", machine, job.run_id).code == 0
    file = tmp_path / "third.version"
    assert yoriai("server", "export-version", machine, "--channel", "staging", "--out", file).code == 0
    other = save_tiny_base(tmp_path / "other", seed=1)
    (south / "site.toml").write_text((south / "site.toml").read_text().replace(str(base), str(other), 1))
    done = yoriai("site", "pull", south, file, "--channel", "staging")
    assert (done.code, "another base model" in done.screen) == (EXIT_REFUSED, True)
    assert not (south / "channels").exists()


def test_what_work_costs_stays_where_a_job_is_prepared(base: Path) -> None:
    job = override(
        JobConfig(name="pumps"), job_settings(base) | {"task.kind": "lm", "kpi.wage": 41.5, "gate.epsilon": 4.0}
    )
    prepared = prepare(job)
    assert prepared.job.gate.epsilon == 4.0
    assert prepared.job.kpi == JobConfig(name="pumps").kpi != job.kpi
