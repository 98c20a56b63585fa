"""`bench edge` asks llama.cpp what transformers would say, and tells of the machine what it can."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.client.conftest import LABELS, start_for
from tests.client.tiny_gguf import write_tiny_gguf
from yoriai.cli import command
from yoriai.client.base.base_model import load_base
from yoriai.client.edge.engine_process import has_llama
from yoriai.client.records.records import Record
from yoriai.client.records.token_bytes import token_bytes
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import load
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection, override
from yoriai.errors import ConfigError
from yoriai.simulations.bench.edge import run
from yoriai.simulations.bench.edge.asking import Language
from yoriai.simulations.bench.edge.energy import EnergyMeter
from yoriai.simulations.bench.edge.run import EdgePlan, bench_edge, languages_of
from yoriai.simulations.bench.edge.table import language_rows, machine_rows, markdown

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")
llama = pytest.mark.skipif(not has_llama(), reason="llama.cpp comes with the extra edge")

TEXTS = ("the pump leaks", "ポンプが漏れる")
LANGUAGES = (
    Language("en", tuple(Record(prompt=f"pump {n}", response=LABELS[n % 3]) for n in range(6)), TEXTS[:1]),
    Language("ja", (), TEXTS[1:]),
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier's adapter on a tiny base; what is made of the base is not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("edge")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YORIAI_CACHE", str(folder / "cache"))
        base = write_tiny_gguf(folder / "base.gguf")
        session = ModelSession(load_base(str(base), device=torch.device("cpu")), SpeedSection(threads=1))
        settings = {"task.kind": "classify", "task.labels": LABELS, "task.head": "labels", "federation.rule": "core"}
        lora = {"lora.rank": 4, "lora.alpha": 8.0, "lora.layers": "last:2", "base.model": str(base)}
        job = override(JobConfig(name="test"), settings | lora)
        save_adapter(session, job, start_for(session.adapted(job), "core"), folder / "adapter")
        session.close()
        yield folder / "adapter"


def plan(adapter: Path, *quantisations: str) -> EdgePlan:
    return EdgePlan(adapter, LANGUAGES, quantisations, 1, 2, None, lambda _line: None)


@pytest.fixture(scope="module")
def document(adapter: Path) -> dict[str, Any]:
    """Measured once."""
    return bench_edge(plan(adapter, "own", "q8_0"))


def row(document: dict[str, Any], language: str, *, adapted: bool) -> dict[str, Any]:
    rows = document["files"][0]["languages"]
    found: dict[str, Any] = next(one for one in rows if (one["language"], one["adapted"]) == (language, adapted))
    return found


@llama
@pytest.mark.parametrize("adapted", [False, True])
def test_labels_are_those_that_yoriai_load_gives(adapted: bool, adapter: Path, document: dict[str, Any]) -> None:
    trained, records = load(adapter, device="cpu"), LANGUAGES[0].records
    prompts = [record.prompt or "" for record in records]
    if adapted:
        predicted = trained.predict(prompts)
    else:
        with trained.untouched():
            predicted = trained.predict(prompts)
    right = sum(label == record.response for label, record in zip(predicted, records, strict=True))
    assert (row(document, "en", adapted=adapted)["correct"], row(document, "en", adapted=adapted)["answered"]) == (
        right,
        6,
    )


@llama
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_bits_a_byte_are_those_of_transformers(
    adapted: bool, language: str, adapter: Path, document: dict[str, Any]
) -> None:
    """In Japanese each token is a byte of a letter, of which llama.cpp tells nothing by itself."""
    trained = load(adapter, device="cpu")
    (text,) = next(one.texts for one in LANGUAGES if one.name == language)
    ids = torch.tensor([trained.base.tokenizer.encode(text)])

    def bits() -> float:
        with torch.no_grad():
            logs = trained.base.model(ids).logits[0, :-1].log_softmax(-1)
        return float(-logs.gather(1, ids[0, 1:, None]).sum() / torch.tensor(2.0).log())

    if adapted:
        expected = bits()
    else:
        with trained.untouched():
            expected = bits()
    size = int(token_bytes(trained.base.tokenizer)[ids[0, 1:].numpy()].sum())
    assert row(document, language, adapted=adapted)["bits_per_byte"] == pytest.approx(expected / size, rel=1e-3)


@llama
def test_a_document_has_sizes_times_and_memory_of_each_file(document: dict[str, Any]) -> None:
    own, rounded = document["files"]
    assert (own["type"], rounded["type"]) == ("unknown", "Q8_0")
    assert rounded["model_bytes"] < own["model_bytes"]
    for one in document["files"]:
        assert one["peak_memory_bytes"] > one["model_bytes"]
        assert 0 < one["times"]["adapted"]["first_token_p50_ms"] <= one["times"]["adapted"]["first_token_p95_ms"]
    assert json.loads(json.dumps(document))["machine"]["threads"] == 1


@llama
def test_the_tables_have_a_row_a_file_and_a_row_a_language(document: dict[str, Any]) -> None:
    assert [cells[0] for cells in machine_rows(document)[1:]] == ["unknown, as it came", "Q8_0"]
    rows = language_rows(document)
    assert [cells[:2] for cells in rows[1:]] == [["en", "6"], ["ja", "texts alone"]]
    assert all(len(cells) == len(rows[0]) for cells in rows)
    assert markdown(rows).count("\n") == 3


@llama
def test_the_command_measures_and_writes_its_figures(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "languages_of", lambda *_: LANGUAGES)
    arguments = ["bench", "edge", str(adapter), "--quantisation", "own", "--answers", "1", "--json"]
    result = CliRunner().invoke(command(), [*arguments, str(tmp_path / "edge.json")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "edge.json").read_text())["files"][0]["quantisation"] == "own"
    assert "texts alone" in result.stdout


def test_without_llama_cpp_the_extra_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r'pip install "yoriai\[edge\]"'):
        bench_edge(plan(adapter, "own"))


@llama
def test_an_unknown_quantisation_is_refused(adapter: Path) -> None:
    with pytest.raises(ConfigError, match="no such quantisation; found q4_1"):
        bench_edge(plan(adapter, "q4_1"))


@pytest.mark.slow
def test_the_voice_commands_are_languages_and_japanese_has_texts() -> None:
    found = languages_of("commands", 3, 2)
    assert [one.name for one in found] == ["en", "es", "ca", "pt", "eu", "gl", "ja"]
    assert [len(one.records) for one in found] == [3] * 6 + [0]
    assert all(len(one.texts) == 2 for one in found)


def _counters(place: Path, value: int) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (place / name).mkdir(exist_ok=True)
        (place / name / "energy_uj").write_text(str(value))
        (place / name / "max_energy_range_uj").write_text("10000000")


def test_joules_are_told_of_whole_processors_and_over_a_counters_end(tmp_path: Path) -> None:
    _counters(tmp_path, 9_000_000)
    meter = EnergyMeter(tmp_path)
    _counters(tmp_path, 9_500_000)
    assert meter.joules() == 0.5
    _counters(tmp_path, 500_000)
    assert meter.joules() == 1.5


def test_without_a_counter_no_joules_are_told(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules() is None
