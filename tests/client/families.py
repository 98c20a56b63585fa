"""A tiny random base of each family that was tried, over the tiny tokenizer: as large as a test can wait for."""

from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import tiny_tokenizer

ALL: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What a family has beside the sizes of all; by transformers' `model_type`.
TAKEN: Final[dict[str, dict[str, Any]]] = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {"head_dim": 8}, "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.5}, "gemma3_text": {"head_dim": 8}, "olmo2": {},
    "smollm3": {},
}  # fmt: skip
# Taken with `lora.target_modules` of their own.
WITH_TARGETS: Final = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
REFUSED: Final[dict[str, dict[str, Any]]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "bloom": {"n_layer": 2, "n_head": 4}, "falcon": {},
    "mamba": {"state_size": 4},
}  # fmt: skip


def tiny(family: str, **more: Any) -> Any:
    """A random model of the family, for evaluation: two layers, width 32."""
    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    settings |= TAKEN.get(family, {}) | REFUSED.get(family, {}) | more
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()  # type: ignore[no-untyped-call]
