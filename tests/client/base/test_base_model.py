"""Loading a base and naming it by a digest."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.crashes import full_disk
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.client.base import assets, base_model
from yoriai.client.base.base_model import BaseModel, choose_device, load_base, wrap_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.errors import AssetError, BaseModelError

CPU = torch.device("cpu")


def test_a_folder_gives_the_model_that_was_saved_in_it(base: BaseModel, base_folder: Path) -> None:
    loaded = load_base(str(base_folder), device=CPU, expected_digest=base.digest)
    assert (loaded.name, loaded.digest) == (str(base_folder), base.digest)
    assert loaded.context_tokens == 256


def test_a_base_is_frozen_in_fp32_and_in_evaluation_mode(base_folder: Path) -> None:
    model = load_base(str(base_folder), device=CPU).model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())


def test_another_digest_than_the_jobs_is_refused_with_both_named(base: BaseModel, base_folder: Path) -> None:
    with pytest.raises(BaseModelError, match=rf"found digest {base.digest[:16]}.*expected 0000000000000000"):
        load_base(str(base_folder), device=CPU, expected_digest="0" * 64)


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer, layers=1).save_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), device=CPU).tokenizer
    assert loaded.pad_token == "</s>"


def test_devices_are_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(s)) for s in ("auto", "cpu", "cuda:1")] == ["cuda:0", "cpu", "cuda:1"]
    with pytest.raises(BaseModelError, match="cuda:2 is not there; found 2 CUDA devices"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device("auto")) == "cpu"
    with pytest.raises(BaseModelError, match="cuda:0 is not there; found 0 CUDA devices"):
        choose_device("cuda:0")


def test_the_move_to_the_device_comes_before_any_adapter() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer, layers=1)
    wrapped = wrap_base("tiny", model, tokenizer, device=torch.device("meta"))
    assert {parameter.device.type for parameter in wrapped.model.parameters()} == {"meta"}


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to convert, and a cache of its own."""
    monkeypatch.setattr(assets, "cache_dir", lambda: tmp_path / "cache")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    return path


def _counted(base_folder: Path, calls: list[Path]) -> Callable[[Path, Path], None]:
    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        for file in base_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    return convert


def test_a_gguf_file_is_dequantised_once_and_again_when_it_changes(
    gguf: Path, base: BaseModel, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(base_model, "_convert", _counted(base_folder, calls))
    assert load_base(str(gguf), device=CPU).digest == base.digest
    assert load_base(str(gguf), device=CPU).digest == base.digest
    assert calls == [gguf]
    gguf.write_bytes(gguf.read_bytes() + b"\0")
    load_base(str(gguf), device=CPU)
    assert calls == [gguf] * 2


def test_a_conversion_that_fails_leaves_nothing_behind(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"model\.gguf does not load"):
        load_base(str(gguf), device=CPU)
    assert not list((tmp_path / "cache" / "whole-bases").iterdir())


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"there is no file .*none\.gguf"):
        load_base(str(tmp_path / "none.gguf"), device=CPU)


def _permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF's order of the rows of q and k: pairs of a rotation lie side by side."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, tokenizer: Any, *, without: str = "none") -> None:
    """A LLaMA with a byte-level tokenizer as an unquantised GGUF file, less the tensors named so."""
    from gguf import GGUFWriter, TokenType

    config, writer = model.config, GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    # A file without merges is malformed, so the last token, which no test text needs, becomes a merged one.
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[:-1], "!!"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["! !"])
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    state = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            if without in f"blk.{layer}.{ours}":
                continue
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            weight = _permuted(weight, heads[theirs]) if theirs in heads else weight
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_real_gguf_file_computes_what_its_model_does(gguf: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer, layers=2)
    gguf.unlink()
    write_gguf(gguf, model, tokenizer)
    first = load_base(str(gguf), device=CPU)
    ids = torch.tensor([[5, 60, 70, 80]])
    with torch.no_grad():
        torch.testing.assert_close(first.model(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert load_base(str(gguf), device=CPU).digest == first.digest
    assert first.tokenizer.decode(first.tokenizer.encode("pump leaks", add_special_tokens=False)) == "pump leaks"


def test_a_gguf_file_that_lacks_tensors_is_refused_and_not_kept(gguf: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    gguf.unlink()
    write_gguf(gguf, tiny_llama(tokenizer, layers=2), tokenizer, without="blk.1.ffn_")
    with pytest.raises(BaseModelError, match=r"4 tensors are missing, first model\.layers\.1\.mlp\.down_proj\.weight"):
        load_base(str(gguf), device=CPU)
    assert not list((tmp_path / "cache" / "whole-bases").iterdir())


def test_a_cache_without_room_for_the_base_is_named_and_keeps_nothing(gguf: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    gguf.unlink()
    write_gguf(gguf, tiny_llama(tokenizer, layers=2), tokenizer)
    with full_disk(10_000), pytest.raises(AssetError, match=r"the cache .* cannot be used.*YORIAI_CACHE"):
        load_base(str(gguf), device=CPU)
    assert not list((tmp_path / "cache" / "whole-bases").iterdir())


def test_a_gguf_file_draws_no_bar_into_a_log(gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    gguf.unlink()
    write_gguf(gguf, tiny_llama(tokenizer, layers=2), tokenizer)
    with quiet_libraries():
        load_base(str(gguf), device=CPU)
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_made_is_named_with_what_would_help(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(assets, "cache_dir", lambda: tmp_path / "file" / "cache")
    with pytest.raises(AssetError, match=r"model\.gguf: the cache .* cannot be used.*set YORIAI_CACHE"):
        load_base(str(gguf), device=CPU)
