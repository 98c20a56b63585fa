"""`site ask`: base and adapted model side by side, and where the adapter is from."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.client.conftest import LABELS, JobMaker
from tests.client.exports import Export
from tests.client.last_adapters import last_adapter
from yoriai.cli import command
from yoriai.client.base.base_model import load_base
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.session.base_answers import LabelWords
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import load
from yoriai.client.session.model_session import ModelSession
from yoriai.client.session.side_by_side import ask
from yoriai.client.versions.adapter_choice import chosen_adapter
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.pulling import pull
from yoriai.config import SiteConfig, SpeedSection, TaskSection
from yoriai.config.site import ModelSection
from yoriai.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")

TEXT = "the pump leaks"


@pytest.fixture
def bench(base_folder: Path) -> ModelSession:
    """A session on the base of a folder, which an adapter's folder names."""
    return ModelSession(load_base(str(base_folder), device=torch.device("cpu")), SpeedSection(threads=1))


@pytest.mark.parametrize("head", ["labels", "trained"])
def test_the_base_answers_as_if_nothing_had_been_trained(
    head: str, bench: ModelSession, make_job: JobMaker, base_folder: Path, tmp_path: Path
) -> None:
    job = make_job(task__head=head, head__directions=8)
    save_adapter(bench, job, last_adapter(bench, job), tmp_path / "adapter")
    bench.close()
    trained = load(tmp_path / "adapter", device="cpu")
    found = ask(trained, TEXT)
    assert found.adapted == trained.predict([TEXT])[0] == next(iter(found.probabilities))
    adapted = trained.probabilities([TEXT])[0]
    section = TaskSection(kind="classify", labels=LABELS, template=trained.task["template"])
    bare = LabelWords.untouched(load_base(str(base_folder), device=torch.device("cpu")), section)
    records = bench.encode([_record()], section).examples
    expected = bare.of_examples(records)[0].softmax(0)
    for place, label in enumerate(LABELS):
        base, own = found.probabilities[label]
        assert own == pytest.approx(float(adapted[place]), abs=1e-6)
        assert base == pytest.approx(float(expected[place]), abs=1e-5)
    assert (adapted - expected).abs().max() > 1e-3


def _record():  # type: ignore[no-untyped-def]
    from yoriai.client.records.records import Record

    return Record(prompt=TEXT, response=LABELS[0])


def test_where_the_task_is_to_write_both_write(bench: ModelSession, make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job(task__kind="instruct", task__labels=(), federation__rule="core", lora__alpha=400.0)
    save_adapter(bench, job, last_adapter(bench, job), tmp_path / "adapter")
    bare = bench.base.model
    bench.close()
    found = ask(load(tmp_path / "adapter", device="cpu"), TEXT, max_new_tokens=8)
    ids = torch.tensor([bench.base.tokenizer(TEXT + "\n")["input_ids"]])
    answer = bare.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert found.base == bench.base.tokenizer.decode(answer, skip_special_tokens=True)
    assert found.adapted != found.base
    assert found.probabilities == {}


@pytest.fixture
def site(bench: ModelSession, make_job: JobMaker, base_folder: Path, tmp_path: Path) -> Path:
    """A site that has pulled one version."""
    config = SiteConfig(name="north", base=ModelSection(model=str(base_folder)))
    folder = make_site(tmp_path / "north", config)
    export = Export(bench, make_job(task__head="labels", federation__rule="core"))
    pull(export.bundle(), ChannelPlace(folder.channels, "production"), bench)
    bench.close()
    return folder.path


def test_the_command_shows_both_answers_and_the_versions_statement(site: Path) -> None:
    result = CliRunner().invoke(command(), ["site", "ask", str(site), TEXT, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["base"] in LABELS
    assert found["adapted"] in LABELS
    assert sum(both["adapted"] for both in found["probabilities"].values()) == pytest.approx(1.0)
    source = found["source"]
    assert (source["run"], source["federation"], source["adapter"]) == ("run-1", "miyagi", "production.1")
    assert source["epsilon"] == "8.00 for one record"
    assert "3 rounds, 2 sites" in source["trained by"]


def test_a_site_exports_the_version_in_use(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        command(), ["site", "export", str(site), "--out", str(out), "--format", "peft", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["judged"]["loaded_by"] == "PEFT"
    assert (out / "adapter_model.safetensors").is_file()


def test_an_adapter_is_chosen_by_channel_or_by_the_beginning_of_its_name(site: Path) -> None:
    folder = SiteFolder(site)
    for name in ("pumps-1-aaaaaaaaaaaa", "pumps-2-bbbbbbbbbbbb"):
        (folder.adapters / name).mkdir()
    assert chosen_adapter(folder.channels, folder.adapters, None).name == "production.1"
    assert chosen_adapter(folder.channels, folder.adapters, "pumps-2").name == "pumps-2-bbbbbbbbbbbb"
    with pytest.raises(ConfigError, match="several adapters at this site begin so"):
        chosen_adapter(folder.channels, folder.adapters, "pumps")
    with pytest.raises(ConfigError, match="there is no such adapter at this site"):
        chosen_adapter(folder.channels, folder.adapters, "staging")
