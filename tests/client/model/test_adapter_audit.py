"""What comes from elsewhere is looked at before it is loaded: what should not be there is found, and named."""

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGUFWriter
from safetensors.numpy import load_file, save_file

from tests.client.conftest import JobMaker
from tests.client.exports import Export, trust
from tests.client.last_adapters import last_adapter
from tests.client.tiny_gguf import write_tiny_gguf
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.cli import command
from yoriai.client.base.base_model import load_base
from yoriai.client.base.gguf_header import read_header
from yoriai.client.edge.adapter_folder import Factors
from yoriai.client.edge.checking import check
from yoriai.client.edge.gguf_audit import audit_gguf
from yoriai.client.edge.gguf_writing import stored, write_adapter
from yoriai.client.model.adapter_audit import CONFIG, WEIGHTS, audit_folder
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import load
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.pulling import pull
from yoriai.errors import EXIT_REFUSED, AdapterError, BaseModelError

Tensors = dict[str, np.ndarray]


@pytest.fixture
def adapter(session: ModelSession, make_job: JobMaker, tmp_path: Path) -> Path:
    """A folder as a run writes it, of an adapter that adds something to each map."""
    job = make_job(federation__rule="core", task__head="labels")
    save_adapter(session, job, last_adapter(session, job), tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, how: Callable[[Tensors], None]) -> None:
    tensors = {name: np.array(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    how(tensors)
    save_file(tensors, folder / WEIGHTS)


def settings(folder: Path, **more: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_what_yoriai_writes_has_no_faults_and_no_warnings(adapter: Path) -> None:
    found = audit_folder(adapter)
    assert (found.faults, found.warnings, found.facts["maps"]) == ([], [], "6")


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "weights.pt", "x.pkl"])
def test_a_pickle_is_refused_by_its_name(name: str, adapter: Path) -> None:
    (adapter / name).write_bytes(b"anything")
    assert [fault for fault in audit_folder(adapter).faults if name in fault and "its author's code" in fault]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_refused_by_its_first_bytes_whatever_it_is_called(protocol: int, adapter: Path) -> None:
    (adapter / "README.md").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    assert "README.md is a pickle" in audit_folder(adapter).faults[0]


def test_what_torch_saves_is_refused_whatever_it_is_called(adapter: Path) -> None:
    torch.save({"a": torch.zeros(1)}, adapter / "notes.txt")
    assert "notes.txt is a pickle" in audit_folder(adapter).faults[0]


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_taken(adapter: Path) -> None:
    """Its header of 0x10480 bytes begins the file with 0x80 0x04, as a pickle of protocol 4 does."""
    data = (adapter / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip().ljust(0x10480)
    (adapter / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert (adapter / WEIGHTS).read_bytes()[:2] == b"\x80\x04"
    assert audit_folder(adapter).faults == []


def test_code_and_links_out_of_the_folder_are_refused(adapter: Path, tmp_path: Path) -> None:
    (adapter / "modeling.py").write_text("")
    (tmp_path / "secret").write_text("")
    (adapter / "link").symlink_to(tmp_path / "secret")
    assert sorted(audit_folder(adapter).faults) == ["link leads out of the folder", "modeling.py is code"]


def test_a_tokenizer_or_chat_template_of_its_own_is_warned_of(adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    found = audit_folder(adapter)
    assert found.faults == []
    assert "chat_template.jinja: some programs take it in place of the base's" in found.warnings


def test_tensors_that_do_not_belong_are_refused(adapter: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["base_model.model.lm_head.weight"] = np.zeros((4, 4), np.float32)

    change(adapter, add)
    assert audit_folder(adapter).faults == ["1 tensors that do not belong, first base_model.model.lm_head.weight"]


def test_a_factor_without_its_other_side_is_refused(adapter: Path) -> None:
    def drop(tensors: Tensors) -> None:
        del tensors[sorted(tensors)[0]]

    change(adapter, drop)
    assert "1 maps whose A and B do not go together" in audit_folder(adapter).faults[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float, adapter: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[sorted(tensors)[0]][0, 0] = value

    change(adapter, spoil)
    assert "values that are not finite in 1 maps" in audit_folder(adapter).faults[0]


def test_a_factor_out_of_all_proportion_is_refused(adapter: Path) -> None:
    def blow_up(tensors: Tensors) -> None:
        tensors[sorted(tensors)[0]] *= np.float32(1e8)

    change(adapter, blow_up)
    assert "factors out of all proportion in 1 maps" in audit_folder(adapter).faults[0]


def test_a_map_that_adds_far_more_than_the_others_is_warned_of(adapter: Path) -> None:
    def blow_up(tensors: Tensors) -> None:
        tensors[next(name for name in sorted(tensors) if "lora_B" in name)] *= np.float32(300)

    change(adapter, blow_up)
    (warning,) = audit_folder(adapter).warnings
    assert "times the median" in warning


def test_an_adapter_that_adds_nothing_is_warned_of(adapter: Path) -> None:
    def empty(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] *= 0

    change(adapter, empty)
    assert audit_folder(adapter).warnings == ["every map adds nothing: it answers as the bare base"]


@pytest.mark.parametrize(
    "more",
    [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
     {"auto_mapping": {"parent_library": "os"}}, {"peft_type": "IA3"}],
)  # fmt: skip
def test_settings_under_which_peft_does_something_else_are_refused(more: dict[str, Any], adapter: Path) -> None:
    settings(adapter, **more)
    assert audit_folder(adapter).faults


def test_yoriai_loads_nothing_that_has_a_fault(adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"this adapter is not loaded: adapter_model.bin is a pickle"):
        load(adapter, device="cpu")


def test_an_adapter_of_another_base_is_found(adapter: Path, tmp_path: Path) -> None:
    other = tiny_llama(tiny_tokenizer(), seed=7)
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    found = check(adapter, base=str(tmp_path / "other"))
    assert found.faults == ["it belongs to another base: its weights or configuration differs"]


def test_an_adapter_that_dwarfs_its_base_is_found(adapter: Path, base_folder: Path) -> None:
    assert check(adapter, base=str(base_folder)).faults == []

    def blow_up(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] *= np.float32(100)

    change(adapter, blow_up)
    assert "out of all proportion to the base" in check(adapter, base=str(base_folder)).faults[0]


def test_anybodys_peft_folder_is_looked_at_on_the_base(adapter: Path, base_folder: Path) -> None:
    (adapter / "task.json").unlink()
    found = check(adapter, base=str(base_folder))
    assert found.faults == []
    assert found.warnings == ["there is no task.json: which base it belongs to is not said"]
    assert "of the base's largest adapted weight" in found.facts["adds at most"]


def test_maps_that_the_base_does_not_have_are_found(adapter: Path, base_folder: Path) -> None:
    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.replace("layers.3", "layers.9")] = tensors.pop(name)

    change(adapter, rename)
    assert "3 maps that the base does not have in that shape" in check(adapter, base=str(base_folder)).faults[0]


@pytest.fixture
def pulled(session: ModelSession, make_job: JobMaker, tmp_path: Path) -> Path:
    """A version as a site has it after a pull."""
    place = ChannelPlace(tmp_path / "channels", "production")
    pull(Export(session, make_job(task__head="labels", federation__rule="core")).bundle(), place, session)
    return place.link.resolve()


def test_a_signed_version_is_verified_under_the_pinned_ca(pulled: Path) -> None:
    assert "not verified" in check(pulled).facts["signature"]
    found = check(pulled, trust=trust())
    assert found.faults == []
    assert found.facts["signature"] == "verified: miyagi, run run-1"


def test_a_statement_that_was_changed_is_found(pulled: Path) -> None:
    path = pulled / "statement"
    path.write_text(path.read_text().replace("run-1", "run-2"))
    assert "the signed version is not what it should be" in check(pulled, trust=trust()).faults[0]


def test_peft_files_that_are_not_those_of_the_signed_version_are_found(pulled: Path) -> None:
    """The signature is over version.safetensors; PEFT, vLLM and yoriai.load read the file beside it."""

    def turn(tensors: Tensors) -> None:
        name = next(name for name in sorted(tensors) if "lora_B" in name)
        tensors[name] *= np.float32(-1)

    change(pulled, turn)
    assert check(pulled).faults == ["what PEFT would read is not what version.safetensors holds"]


def test_a_scale_that_is_not_the_signed_jobs_is_found(pulled: Path) -> None:
    """The factors that are signed say nothing of it, and PEFT would add ten times what was trained."""
    place = pulled / "adapter_config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps(config | {"lora_alpha": 10 * config["lora_alpha"]}))
    faults = ["adapter_config.json scales the adapter otherwise than the job of the statement"]
    assert check(pulled, trust=trust()).faults == faults
    job = json.loads((pulled / "job.json").read_text())
    job["lora"]["alpha"] *= 10
    (pulled / "job.json").write_text(json.dumps(job))
    assert check(pulled, trust=trust()).faults == faults


def test_a_versions_file_is_looked_at(session: ModelSession, make_job: JobMaker, tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_bytes(Export(session, make_job()).file())
    found = check(file, trust=trust())
    assert (found.faults, found.facts["run"], found.facts["signature"]) == ([], "run-1", "verified: miyagi")
    file.write_bytes(b"nothing of the kind")
    assert check(file).faults == ["neither an adapter's folder, nor a GGUF file, nor a version's"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model as a GGUF file."""
    return write_tiny_gguf(tmp_path / "model.gguf")


def test_a_gguf_model_has_its_family_and_the_digest_of_its_chat_template(model: Path) -> None:
    found = audit_gguf(model)
    assert (found.kind, found.faults, found.warnings) == ("GGUF model", [], [])
    assert found.facts["family"] == "llama"
    assert found.facts["chat template"].startswith("SHA-256 ")


@pytest.mark.parametrize("kept", [3, 20, 2000, -1])
def test_a_gguf_file_that_is_cut_short_is_found_by_its_header(kept: int, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:kept])
    assert "is no whole GGUF file" in audit_gguf(model).faults[0]
    with pytest.raises(BaseModelError, match="is no whole GGUF file"):
        load_base(str(model), device=torch.device("cpu"))


@pytest.mark.parametrize("offset", [8, 16, 24])
def test_a_gguf_header_with_a_count_beyond_the_file_ends_at_once(offset: int, model: Path) -> None:
    """Tensors, keys, and the length of the first key."""
    data = bytearray(model.read_bytes())
    data[offset : offset + 8] = (2**62).to_bytes(8, "little")
    model.write_bytes(data)
    with pytest.raises(BaseModelError, match="a count beyond the file's size"):
        read_header(model)


def test_every_byte_of_a_gguf_header_may_be_wrong_without_another_error(model: Path) -> None:
    data, drawn = model.read_bytes(), np.random.default_rng(0)
    for place in drawn.integers(0, 4000, 200):
        changed = bytearray(data)
        changed[place] ^= 1 << int(drawn.integers(0, 8))
        model.write_bytes(changed)
        with contextlib.suppress(BaseModelError):
            read_header(model)


def _written(path: Path, architecture: str, tensors: Tensors, **fields: Any) -> Path:
    writer = GGUFWriter(path, architecture)
    for key, value in fields.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_tensor_that_is_not_of_its_family_is_found(tmp_path: Path) -> None:
    file = _written(tmp_path / "odd.gguf", "llama", {"blk.0.backdoor.weight": np.zeros((2, 2), np.float32)})
    assert audit_gguf(file).faults == ["1 tensors that do not belong, first blk.0.backdoor.weight"]


def test_gguf_values_that_are_not_finite_are_found(tmp_path: Path) -> None:
    file = _written(tmp_path / "odd.gguf", "llama", {"token_embd.weight": np.full((2, 32), np.nan, np.float32)})
    assert audit_gguf(file).faults == ["values that are not finite in token_embd.weight"]


def test_a_gguf_tensor_far_larger_than_its_fellows_is_warned_of(tmp_path: Path) -> None:
    weights = {f"blk.{n}.attn_q.weight": np.full((2, 32), 1000.0 if n == 1 else 1.0, np.float32) for n in range(4)}
    (warning,) = audit_gguf(_written(tmp_path / "odd.gguf", "llama", weights)).warnings
    assert "blk.1.attn_q.weight is 1e+03 times the others" in warning


def test_a_chat_template_that_reaches_for_insides_or_differs_is_warned_of(model: Path, tmp_path: Path) -> None:
    template = "{{ messages.__class__.__mro__ }}"
    file = _written(
        tmp_path / "odd.gguf",
        "llama",
        {"token_embd.weight": np.ones((2, 32), np.float32)},
        tokenizer__chat_template=template,
    )
    warnings = audit_gguf(file, model).warnings
    assert "the chat template reaches for the engine's insides: __" in warnings
    assert "another chat template than the base's" in warnings


def _factors(scale: float = 1.0) -> Factors:
    drawn = np.random.default_rng(0)
    a, b = (drawn.normal(size=shape).astype(np.float32) * scale for shape in ((4, 64), (64, 4)))
    return Factors({"model.layers.0.self_attn.q_proj": (a, b)}, 1.0, 4, 4)


def test_a_gguf_adapter_is_looked_at_with_its_base(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    write_adapter(file, stored(_factors(), model), "llama")
    found = audit_gguf(file, model)
    assert (found.kind, found.faults, found.facts["rank"]) == ("GGUF adapter", [], "4")
    with pytest.raises(BaseModelError, match="holds an adapter, and no model"):
        load_base(str(file), device=torch.device("cpu"))


def test_a_gguf_adapter_of_another_family_or_shape_is_found(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    write_adapter(file, stored(_factors(), model), "gemma3")
    assert audit_gguf(file, model).faults == ["the base is of another family: llama"]
    other = {"blk.0.attn_q.weight.lora_a": np.ones((4, 32), np.float32)}
    other["blk.0.attn_q.weight.lora_b"] = np.ones((64, 4), np.float32)
    writer_fields = {"general__type": "adapter", "adapter__type": "lora"}
    odd = GGUFWriter(tmp_path / "odd.gguf", "llama")
    for key, value in writer_fields.items():
        odd.add_string(key.replace("__", "."), value)
    odd.add_float32("adapter.lora.alpha", 4.0)
    for name, tensor in other.items():
        odd.add_tensor(name, tensor)
    odd.write_header_to_file()
    odd.write_kv_data_to_file()
    odd.write_tensors_to_file()
    odd.close()
    assert "do not go together with each other or with the base" in audit_gguf(tmp_path / "odd.gguf", model).faults[0]


def test_the_command_ends_with_the_code_of_a_refusal(adapter: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(command(), ["check-adapter", str(adapter)]).exit_code == 0
    (adapter / "x.pkl").write_bytes(b"")
    result = runner.invoke(command(), ["check-adapter", str(adapter), "--json"])
    assert result.exit_code == EXIT_REFUSED
    assert json.loads(result.output)["loadable"] is False


def test_a_head_is_looked_at(session: ModelSession, make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job(task__head="trained", head__directions=8)
    save_adapter(session, job, last_adapter(session, job), tmp_path / "head")
    assert (audit_folder(tmp_path / "head").kind, audit_folder(tmp_path / "head").faults) == ("head", [])
    shutil.copy(tmp_path / "head" / "task.json", tmp_path / "head" / "head.safetensors")
    assert audit_folder(tmp_path / "head").faults
