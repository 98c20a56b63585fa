"""`site evaluate`: a delivered adapter side by side with base and baselines at the site itself, and nothing leaves."""

import json
from pathlib import Path

import pytest

from tests.client.books import terms
from tests.client.conftest import LABELS, JobMaker
from tests.client.exports import Export
from tests.client.last_adapters import last_adapter
from tests.commands import yoriai
from tests.world import write_records
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.adapter_place import VERSION, folder_of
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.pulling import pull
from yoriai.config import JobConfig, SiteConfig, SpeedSection
from yoriai.config.site import ModelSection, RecordsSection
from yoriai.errors import EXIT_BAD_INPUT

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

MARKER = "swordfish"
MODELS = ("adapted", "base", "majority", "naive_bayes")
BOTH = ("--channel", "production", "--run", "delivered")
TESTS = 24


def _records(count: int, offset: int = 0) -> list[dict[str, object]]:
    languages = ("ja", "es")
    return [
        {"prompt": f"{MARKER} {n + offset} {LABELS[n % 3]}", "response": LABELS[n % 3], "language": languages[n % 2]}
        for n in range(count)
    ]


@pytest.fixture
def site(tmp_path: Path, base_folder: Path) -> SiteFolder:
    """A site with records of its own, to which no adapter was delivered yet."""
    config = SiteConfig(
        name="north",
        records=RecordsSection(folder=str(tmp_path / "records")),
        base=ModelSection(model=str(base_folder)),
    )
    write_records(tmp_path / "records" / "train.jsonl", _records(30, offset=100))
    write_records(tmp_path / "records" / "test.jsonl", _records(TESTS))
    return make_site(tmp_path / "north", config)


def _deliver(site: SiteFolder, base_folder: Path, job: JobConfig, run: str = "run-1", seed: int = 0) -> None:
    """Put a last adapter of a job where a delivery puts it, and its end into the book."""
    session = ModelSession(load_base(str(base_folder), device=choose_device("cpu")), SpeedSection(threads=1))
    state, book = last_adapter(session, job, seed), JobBook(site.jobs)
    place = folder_of(site.adapters, run, state.digest())
    save_adapter(session, job, state, place)
    (place / VERSION).write_bytes(state.to_bytes())
    digest = session.base.digest
    book.accept(terms(run, job=job.model_dump(mode="json", by_alias=True), base_digest=digest))
    book.finish(run, state.digest(), job.federation.rounds)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_model_is_measured_on_the_sites_own_test_records(
    site: SiteFolder, base_folder: Path, make_job: JobMaker
) -> None:
    _deliver(site, base_folder, make_job())
    done = yoriai("site", "evaluate", site.path, "--json")
    assert done.code == 0, done.screen
    found = json.loads(done.screen)
    assert set(found["models"]) == {*MODELS}
    assert {model["records"] for model in found["models"].values()} == {TESTS}
    assert found["models"]["naive_bayes"]["accuracy"] == 1.0  # The label is a word of the text.
    assert found["models"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    for one in found["adapted_against"].values():
        assert {"accuracy", "macro_f1", "loss"} <= set(one["changes"])
        assert 0 < one["paired"]["p"] <= 1
    adapted, base = found["models"]["adapted"]["accuracy"], found["models"]["base"]["accuracy"]
    assert found["adapted_against"]["base"]["changes"]["accuracy"]["change"] == pytest.approx(adapted - base)
    assert {one["language"]: one["records"] for one in found["languages"]} == {"ja": 12, "es": 12}
    assert sum(one["records"] for one in found["labels"]) == TESTS


def test_evaluating_writes_nothing_charges_nothing_and_shows_no_text(
    site: SiteFolder, base_folder: Path, make_job: JobMaker
) -> None:
    _deliver(site, base_folder, make_job())
    before = _files(site.path)
    done = yoriai("site", "evaluate", site.path)
    assert done.code == 0, done.screen
    assert "nothing was sent, nothing was written, and no budget was charged" in done.screen
    assert MARKER not in done.screen
    assert _files(site.path) == before


def test_a_head_that_trains_is_compared_with_the_base_that_answers_by_its_labels(
    site: SiteFolder, base_folder: Path, make_job: JobMaker
) -> None:
    small = {"head__states": ("last", "mean:2"), "head__directions": 8, "head__words": 32}
    _deliver(site, base_folder, make_job(task__head="trained", federation__server_optimizer="none", **small))
    found = json.loads(yoriai("site", "evaluate", site.path, "--json").screen)
    assert found["models"]["base"]["calibration"] is not None
    assert "accuracy" in found["adapted_against"]["base"]["changes"]


def test_the_last_delivered_adapter_is_taken_unless_another_is_named(
    site: SiteFolder, base_folder: Path, make_job: JobMaker
) -> None:
    _deliver(site, base_folder, make_job(), "first")
    _deliver(site, base_folder, make_job(), "second", seed=1)
    assert json.loads(yoriai("site", "evaluate", site.path, "--json").screen)["run_id"] == "second"
    assert json.loads(yoriai("site", "evaluate", site.path, "--run", "first", "--json").screen)["run_id"] == "first"


def test_a_version_that_was_pulled_is_measured_by_its_channel_and_none_is_where_nothing_was(
    site: SiteFolder, base_folder: Path, make_job: JobMaker
) -> None:
    _deliver(site, base_folder, make_job(), "delivered", seed=1)
    session = ModelSession(load_base(str(base_folder), device=choose_device("cpu")), SpeedSection(threads=1))
    export = Export(session, make_job())
    pull(export.bundle(), ChannelPlace(site.channels, "production"), session)
    found = json.loads(yoriai("site", "evaluate", site.path, "--channel", "production", "--json").screen)
    assert (found["adapter_digest"], set(found["models"])) == (export.adapter.digest(), {*MODELS})
    delivered = json.loads(yoriai("site", "evaluate", site.path, "--json").screen)
    assert delivered["models"]["base"] == found["models"]["base"]
    assert delivered["adapter_digest"] != found["adapter_digest"]
    for options, said in ((("--channel", "staging"), "no version is in use in staging"), (BOTH, "name two adapters")):
        done = yoriai("site", "evaluate", site.path, *options)
        assert (done.code, said in done.screen) == (EXIT_BAD_INPUT, True)


def test_without_an_adapter_it_says_so(site: SiteFolder) -> None:
    done = yoriai("site", "evaluate", site.path)
    assert (done.code, "no adapter was delivered" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_run_without_an_adapter_here_is_refused(site: SiteFolder) -> None:
    JobBook(site.jobs).accept(terms("run-1"))
    done = yoriai("site", "evaluate", site.path, "--run", "run-1")
    assert (done.code, "found accepted; expected delivered" in done.screen) == (EXIT_BAD_INPUT, True)
