"""Exports: each format answers as the adapted model does, by the program that it is for, or is not handed out."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, start_for
from tests.client.tiny_gguf import write_tiny_gguf
from yoriai.client.base.base_model import load_base
from yoriai.client.edge import exporting
from yoriai.client.edge.adapter_folder import read_folder
from yoriai.client.edge.engine_process import has_llama
from yoriai.client.edge.exporting import EXPORT_FILE, Asked, export
from yoriai.client.edge.families import Family
from yoriai.client.edge.fidelity import compare
from yoriai.client.edge.gguf_writing import read_adapter
from yoriai.client.edge.llama_server import serving
from yoriai.client.edge.modelfile import modelfile, vllm_line
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import load
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection, override
from yoriai.errors import AdapterError, BaseModelError, ConfigError
from yoriai.strategies.adapter import AdapterState

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILIES = ("llama", "gemma3_text")
llama = pytest.mark.skipif(not has_llama(), reason="llama.cpp comes with the extra edge")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A tiny base of each family as a GGUF file; what is made of it is not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("gguf")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YORIAI_CACHE", str(folder / "cache"))
        yield {family: write_tiny_gguf(folder / f"{family}.gguf", family) for family in FAMILIES}


@pytest.fixture(scope="module")
def adapters(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The folder of an adapter with noise for weights, made once for each family, kind of task and rule."""
    made: dict[tuple[str, ...], Path] = {}

    def make(family: str = "llama", kind: str = "instruct", rule: str = "core") -> Path:
        key = (family, kind, rule)
        if key not in made:
            made[key] = _adapter(bases[family], tmp_path_factory.mktemp("adapter"), kind, rule)
        return made[key]

    return make


def _adapter(base: Path, folder: Path, kind: str, rule: str) -> Path:
    session = ModelSession(load_base(str(base), device=torch.device("cpu")), SpeedSection(threads=1))
    labels: dict[str, Any] = {"task.labels": LABELS} if kind == "classify" else {}
    head = (
        {"task.head": "trained", "head.directions": 8}
        if rule == "head"
        else {"task.head": "labels", "federation.rule": rule}
    )
    lora = {"lora.rank": 4, "lora.alpha": 8.0, "lora.layers": "last:2", "lora.target_modules": ALL}
    task = {"task.kind": kind, "task.max_tokens": 200, "base.model": str(base)}
    job = override(JobConfig(name="test"), labels | head | lora | task)
    state = session.initial_adapter(job) if rule == "head" else start_for(session.adapted(job), rule)
    if rule == "head":
        generator = np.random.default_rng(0)
        tensors = dict(state.tensors)
        tensors["head:H"] = generator.normal(size=tensors["head:H"].shape).astype(np.float32)
        state = AdapterState(tensors)
    save_adapter(session, job, state, folder)
    session.close()
    return folder


def judged(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["judged"]
    return found


@llama
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_answers_with_the_adapter_file_as_peft_does(family: str, adapters: Make, tmp_path: Path) -> None:
    found = judged(export(adapters(family), tmp_path / "out", Asked(check="llama")))
    assert found["loaded_by"] == "llama.cpp"
    assert found["own_effect"] > 1e-2  # A base alone would be this far off, and so would rows in another order.
    assert found["kl"] < 1e-5
    assert found["kl_without"] == pytest.approx(found["own_effect"], rel=1e-2)
    assert found["same_tokens"] == 1.0


@llama
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-5), ("q8_0", 1e-3)])
def test_llama_cpp_answers_with_the_merged_file_as_peft_does(
    family: str, kind: str, most: float, adapters: Make, tmp_path: Path
) -> None:
    found = judged(export(adapters(family), tmp_path / "out", Asked("gguf", kind, check="llama")))
    assert found["loaded_by"] == "llama.cpp"
    assert found["kl"] < most < 0.1 * found["own_effect"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["gguf-adapter", "gguf"])
def test_transformers_reads_the_files_back_where_llama_cpp_is_not_there(
    family: str, form: str, adapters: Make, tmp_path: Path
) -> None:
    found = judged(export(adapters(family), tmp_path / "out", Asked(form, check="transformers")))
    assert found["loaded_by"].startswith("transformers")
    assert found["kl"] < 1e-5 < 1e-2 < found["own_effect"]


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_peft_and_transformers_load_what_is_for_them(form: str, adapters: Make, tmp_path: Path) -> None:
    document = export(adapters(), tmp_path / "out", Asked(form))
    assert judged(document)["kl"] < 1e-9
    assert ("--max-lora-rank 8" in (document.get("vllm") or "")) == (form == "peft")
    assert (tmp_path / "out" / "Modelfile").exists() == (form == "merged")


def test_rows_in_another_order_are_found_and_nothing_is_handed_out(
    adapters: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _large(adapters(), tmp_path / "adapter")
    monkeypatch.setattr(Family, "rows", lambda _self, _name, matrix, _header: np.ascontiguousarray(matrix[::-1]))
    with pytest.raises(AdapterError, match="no nearer to the adapted model than the base without its adapter"):
        export(folder, tmp_path / "out", Asked("gguf", check="transformers"))
    assert not [path for path in tmp_path.iterdir() if path.name != "adapter"]


def _large(source: Path, place: Path) -> Path:
    """The adapter with only what it adds to q and k, ten times as large."""
    from safetensors.numpy import load_file, save_file

    place.mkdir()
    for path in source.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    tensors = load_file(place / "adapter_model.safetensors")
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = tensors[name] * np.float32(10 * any(part in name for part in ("q_proj", "k_proj")))
    save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
    return place


def test_an_export_no_nearer_than_the_bare_base_is_refused() -> None:
    logs = np.log(np.array([[0.5, 0.3, 0.2]]))
    far, near = np.log(np.array([[0.2, 0.3, 0.5]])), np.log(np.array([[0.48, 0.31, 0.21]]))
    compare(logs, far, near).check()
    with pytest.raises(AdapterError, match="no nearer"):
        compare(logs, near, far).check()
    with pytest.raises(AdapterError, match="no nearer"):  # The program with its adapter off is nearer still.
        compare(logs, far, near, without=logs).check()


def test_what_a_program_says_without_the_adapter_is_the_measure_where_it_can_be_asked() -> None:
    """A base in 4 bits is further off its own weights than a small adapter moves it; the adapter still helps."""
    adapted, base = np.log(np.array([[0.50, 0.30, 0.20]])), np.log(np.array([[0.49, 0.31, 0.20]]))
    rough_with, rough_without = np.log(np.array([[0.45, 0.33, 0.22]])), np.log(np.array([[0.44, 0.34, 0.22]]))
    found = compare(adapted, base, rough_with, rough_without)
    assert found.kl > found.own_effect
    found.check()


def test_divergence_by_hand() -> None:
    found = compare(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]), np.log([[0.5, 0.5]]))
    assert found.own_effect == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert (found.kl, found.top1) == (0.0, 1.0)


def test_an_existing_folder_is_left_alone(adapters: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        export(adapters(), tmp_path / "out", Asked())
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_1", "q4_k_m"])
def test_a_merged_model_in_four_or_five_bits_is_refused_with_the_reason(
    kind: str, adapters: Make, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"found q.*expected f16 or q8_0; .*worse than the base without its adapter"):
        export(adapters(), tmp_path / "out", Asked("gguf", kind))


def test_a_base_of_another_digest_is_refused(adapters: Make, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    with pytest.raises(BaseModelError, match="is not the one of the job: its weights or configuration differs"):
        export(adapters(), tmp_path / "out", Asked(base=str(other)))
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_not_there_is_refused(adapters: Make, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="there is no file"):
        export(adapters(), tmp_path / "out", Asked("merged", base=str(tmp_path / "gone.gguf")))


def test_a_base_that_is_a_folder_has_no_gguf_formats(adapters: Make, base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"needs the base as a GGUF file.*--format merged"):
        export(adapters(), tmp_path / "out", Asked(base=str(base_folder)))


def test_a_family_without_a_mapping_is_refused_by_its_name(adapters: Make, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    other = tmp_path / "other.gguf"
    writer = GGUFWriter(other, "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BaseModelError, match=r"found mamba; expected llama or gemma3"):
        export(adapters(), tmp_path / "out", Asked(base=str(other)))


@pytest.mark.parametrize("form", ["gguf-adapter", "peft"])
def test_a_dense_remainder_is_only_merged(form: str, adapters: Make, tmp_path: Path) -> None:
    folder = adapters(rule="flora")
    with pytest.raises(ConfigError, match=r"dense remainder.*--format gguf or merged"):
        export(folder, tmp_path / "out", Asked(form))
    assert judged(export(folder, tmp_path / "merged", Asked("merged")))["kl"] < 1e-6


def test_a_core_is_folded_into_a_and_b(adapters: Make, tmp_path: Path) -> None:
    export(adapters(), tmp_path / "out", Asked(check="transformers"))
    adapter = read_adapter(tmp_path / "out" / "adapter.gguf")
    assert adapter.alpha == 8.0
    assert {len(a) for a, _ in adapter.pairs.values()} == {4}
    assert len(adapter.pairs) == 2 * len(ALL)


def test_llama_cpp_missing_is_told_with_the_extra(
    adapters: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'llama.cpp is not installed here.*pip install "yoriai\[edge\]"'):
        export(adapters(), tmp_path / "out", Asked(check="llama"))
    assert judged(export(adapters(), tmp_path / "out", Asked()))["loaded_by"].startswith("transformers")


@llama
def test_a_file_that_llama_cpp_cannot_load_is_told_and_ends_no_process_of_ours(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bases["llama"].read_bytes()[:-4096])
    with pytest.raises(AdapterError, match=r"does not load the base cut\.gguf"), serving(cut, vocabulary=260):
        pytest.fail("it was loaded")


def test_a_classifier_can_be_asked_by_next_token_probabilities(adapters: Make, tmp_path: Path) -> None:
    folder = adapters(kind="classify")
    document = export(folder, tmp_path / "out", Asked(check="transformers"))
    assert judged(document)["labels"] == 1.0
    classify, trained = document["classify"], load(folder, device="cpu")
    ids = trained.base.tokenizer("the pump leaks\nLabel:")["input_ids"]
    with torch.no_grad():
        logs = trained.base.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    scores = [float(logs[tokens].mean()) for tokens in classify["labels"].values()]
    found = torch.tensor(scores).sub(torch.tensor(classify["prior"])).softmax(0)
    torch.testing.assert_close(found, trained.probabilities(["the pump leaks"])[0], rtol=1e-4, atol=1e-5)


def test_a_head_leaves_as_its_own_file_and_says_what_cannot_hold_it(adapters: Make, tmp_path: Path) -> None:
    folder = adapters(kind="classify", rule="head")
    with pytest.raises(ConfigError, match=r"a head that trained is no gguf.*would answer as the bare base"):
        export(folder, tmp_path / "out", Asked("gguf"))
    document = export(folder, tmp_path / "out", Asked())
    assert sorted(document["files"]) == ["head.safetensors", "task.json"]
    assert "read no head" in document["limits"]
    texts = ["pump leaks", "cabin door"]
    torch.testing.assert_close(
        load(tmp_path / "out", device="cpu").probabilities(texts), load(folder, device="cpu").probabilities(texts)
    )


def test_export_json_names_each_file_by_its_digest(adapters: Make, tmp_path: Path) -> None:
    from yoriai.client.model.adapter_audit import file_digest

    export(adapters(), tmp_path / "out", Asked("peft"))
    document = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    others = {path.name for path in (tmp_path / "out").iterdir()} - {EXPORT_FILE}
    assert document["files"].keys() == others
    assert all(entry["sha256"] == file_digest(tmp_path / "out" / name) for name, entry in document["files"].items())


def test_no_record_is_looked_at(adapters: Make, tmp_path: Path) -> None:
    from yoriai.client.edge.reference import public_sample
    from yoriai.client.model.public_texts import shipped_texts

    assert len(public_sample()) == 32
    assert set(public_sample()) <= set(shipped_texts())
    assert "no record" in judged(export(adapters(), tmp_path / "out", Asked("peft")))["texts"]


@pytest.mark.parametrize(("rank", "room"), [(1, "8"), (8, "8"), (9, "16"), (32, "32"), (33, "64"), (300, "320")])
def test_vllm_is_given_a_rank_of_its_list(rank: int, room: str) -> None:
    assert (vllm_line(rank, "out") or "").endswith(f"--max-lora-rank {room}")


def test_vllm_has_no_place_for_a_larger_rank() -> None:
    assert vllm_line(513, "out") is None


def test_a_modelfile_says_what_ollama_sends_the_model() -> None:
    task = {"kind": "instruct", "template": "Q: {prompt}\nA:", "job": "support\nSYSTEM hack"}
    lines = modelfile(task, "base.gguf", "adapter.gguf").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "FROM ./base.gguf", "ADAPTER ./adapter.gguf", 'TEMPLATE """Q: {{ .Prompt }}', 'A:"""', "PARAMETER temperature 0"
    ]  # fmt: skip


@pytest.mark.parametrize("template", ["{{x}} {prompt}", 'say """ {prompt}', "{prompt} {prompt}"])
def test_a_template_that_ollama_would_read_otherwise_is_left_out(template: str) -> None:
    assert "TEMPLATE" not in modelfile({"kind": "instruct", "template": template, "job": "a"}, "model.gguf")


def test_vllm_and_peft_find_one_rank_and_one_scale_for_all_maps(adapters: Make, tmp_path: Path) -> None:
    """vLLM takes r and lora_alpha for every map, whatever the patterns say."""
    source = tmp_path / "mixed"
    source.mkdir()
    for path in adapters().iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    _give_one_map_its_own_rank(source)
    before = read_folder(source).factors
    export(source, tmp_path / "out", Asked("peft"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"], config["bias"]) == (4, {}, {}, "none")
    (tmp_path / "out" / "task.json").write_bytes((source / "task.json").read_bytes())
    after = read_folder(tmp_path / "out").factors
    assert before is not None
    assert after is not None
    for name in before.pairs:
        np.testing.assert_allclose(after.delta(name), before.delta(name), rtol=1e-5, atol=1e-7)


def _give_one_map_its_own_rank(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if "lora_A" in name)
    for side, kept in (("A", (slice(0, 2), slice(None))), ("B", (slice(None), slice(0, 2)))):
        key = name.replace("lora_A", f"lora_{side}")
        tensors[key] = np.ascontiguousarray(tensors[key][kept])
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"rank_pattern": {path: 2}, "alpha_pattern": {path: 6.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_formats_are_those_that_the_command_names() -> None:
    assert set(exporting.FORMATS) == {"gguf-adapter", "gguf", "peft", "merged"}
