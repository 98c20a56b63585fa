"""A tiny random base as a GGUF file that llama.cpp and transformers load alike: of LLaMA's family, or Gemma 3's."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFWriter, TokenType, get_tensor_name_map
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

_LAYERS, _HEADS, _KV_HEADS, _CONTEXT = 3, 4, 2, 256
# llama.cpp scales Gemma's attention by the head's width, transformers by a setting of 256 that no GGUF file holds.
_HEAD_DIM: Final = {"llama": 16, "gemma3_text": 256}
# Two bytes that no text has: a file without any merge is refused.
_MERGED: Final = ("\u0100", "\u0101")
_ARCHITECTURES: Final = {"llama": MODEL_ARCH.LLAMA, "gemma3_text": MODEL_ARCH.GEMMA3}


def tiny_model(family: str, seed: int = 0) -> Any:
    """Width 64, three layers; output and input embeddings are one, as in the bases that Yoriai is tried with."""
    settings = {
        "vocab_size": len(_TOKENS[family]),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM[family],
        "max_position_embeddings": _CONTEXT,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings, **ids)).eval()  # type: ignore[no-untyped-call]


def write_tiny_gguf(path: Path, family: str = "llama", seed: int = 0) -> Path:
    """Write it in F32."""
    model, architecture = tiny_model(family, seed), _ARCHITECTURES[family]
    writer = GGUFWriter(path, {"llama": "llama", "gemma3_text": "gemma3"}[family])
    writer.add_type("model")
    writer.add_name("tiny")
    config = model.config
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(_HEAD_DIM[family])
    writer.add_value_length(_HEAD_DIM[family])
    if family == "llama":
        writer.add_rope_dimension_count(_HEAD_DIM[family])
        writer.add_rope_freq_base(10000.0)
    else:
        writer.add_rope_freq_base(1000000.0)
        writer.add_sliding_window(config.sliding_window)
    _add_tokenizer(writer, family)
    names = get_tensor_name_map(architecture, _LAYERS)
    for name, weight in model.state_dict().items():
        if (stored := names.get_name(name, (".weight",))) is not None and name != "lm_head.weight":
            writer.add_tensor(stored, _as_llama_cpp_has_it(name, weight.float().numpy(), family))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_llama_cpp_has_it(name: str, weight: np.ndarray, family: str) -> np.ndarray:
    """Gemma's norms are counted from zero there; LLaMA's rotary halves lie row beside row."""
    if family == "gemma3_text":
        return weight + 1 if name.endswith("norm.weight") else weight
    for part, heads in (("q_proj", _HEADS), ("k_proj", _KV_HEADS)):
        if part in name:
            rows = np.arange(len(weight)).reshape(heads, 2, -1).transpose(0, 2, 1).reshape(-1)
            return np.ascontiguousarray(weight[rows])
    return weight


def _byte_tokens() -> list[str]:
    """The tiny tokenizer's, and the product of the one merge."""
    vocabulary = tiny_tokenizer().get_vocab()
    return [*sorted(vocabulary, key=vocabulary.__getitem__), "".join(_MERGED)]


def _piece_tokens() -> list[str]:
    """As Gemma has them: a space is a piece of its own, and what is in no piece becomes bytes."""
    pieces = [chr(code) if code != ord(" ") else "\u2581" for code in range(32, 127)]
    return ["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]


_TOKENS: Final = {"llama": _byte_tokens(), "gemma3_text": _piece_tokens()}


def _add_tokenizer(writer: GGUFWriter, family: str) -> None:
    tokens = _TOKENS[family]
    if family == "llama":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        kinds = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3)
        writer.add_token_merges([" ".join(_MERGED)])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        kinds = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN] + [TokenType.BYTE] * 256
        kinds += [TokenType.NORMAL] * (len(tokens) - len(kinds))
        writer.add_token_scores([-1000.0] * len(tokens))
        writer.add_unk_token_id(3)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(family != "llama")
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
