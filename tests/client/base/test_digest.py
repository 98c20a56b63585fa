"""What names a base: its weights, and whatever decides which tokens a text becomes; nothing of how it was stored."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import CHAT_TEMPLATE, tiny_llama, tiny_tokenizer
from yoriai.base_digest import difference, of_weights
from yoriai.client.base.base_model import BaseModel, load_base
from yoriai.client.base.digest import base_digest, tokenizer_digest, weights_digest
from yoriai.errors import BaseModelError

CPU = torch.device("cpu")


def test_the_digest_changes_with_one_bit_of_any_weight() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer, layers=1)
    before = weights_digest(model)
    assert before == weights_digest(tiny_llama(tokenizer, layers=1))
    for name, weight in model.named_parameters():
        bits = weight.data.view(-1).view(torch.int32)
        bits[0] ^= 1
        assert weights_digest(model) != before, name
        bits[0] ^= 1
    assert weights_digest(model) == before


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", 1e-4), ("num_attention_heads", 2), ("bos_token_id", 7)])
def test_the_digest_changes_with_a_setting_that_is_computed_with(key: str, value: object) -> None:
    model = tiny_llama(tiny_tokenizer(), layers=1)
    before = weights_digest(model)
    setattr(model.config, key, value)
    assert weights_digest(model) != before


def test_the_digest_does_not_change_with_how_the_model_was_stored() -> None:
    model = tiny_llama(tiny_tokenizer(), layers=1)
    before = weights_digest(model)
    model.config._name_or_path = "/another/folder"
    model.config.use_cache = not model.config.use_cache
    model.config.quantization_config = {"quant_method": "gguf"}
    assert weights_digest(model) == before


def test_the_digest_is_of_the_base_and_not_of_adapters_on_it(attach: Any, base: BaseModel) -> None:
    attach("core").detach()
    assert base_digest(base.model, base.tokenizer) == base.digest


def test_a_copy_has_the_same_digest(base: BaseModel) -> None:
    assert base_digest(copy.deepcopy(base.model), copy.deepcopy(base.tokenizer)) == base.digest


def _another_template(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<assistant>", "<answer>")


def _no_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


def _one_more_special_token(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})


def _one_more_added_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["pump"])


def _another_end(tokenizer: Any) -> None:
    tokenizer.eos_token = "<s>"


def _a_normaliser(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()


def _a_beginning(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])


def _another_merge(tokenizer: Any) -> None:
    from tokenizers.models import BPE

    vocabulary = tokenizer.get_vocab()
    spare = next(token for token in vocabulary if ord(token[0]) > 0x140)
    merged = {("ab" if token == spare else token): index for token, index in vocabulary.items()}
    tokenizer.backend_tokenizer.model = BPE(vocab=merged, merges=[("a", "b")])


def _two_tokens_exchanged(tokenizer: Any) -> None:
    from tokenizers.models import BPE

    vocabulary = tokenizer.get_vocab()
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokenizer.backend_tokenizer.model = BPE(vocab=vocabulary, merges=[])


CHANGES = [
    _another_template, _no_template, _one_more_special_token, _one_more_added_token, _another_end, _a_normaliser,
    _a_beginning, _another_merge, _two_tokens_exchanged,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_bases_that_differ_in_tokenizer_or_template_alone_have_digests_that_say_so(
    base: BaseModel, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    base.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="not the one of the job: its tokenizer or chat template differs"):
        load_base(str(tmp_path), device=CPU, expected_digest=base.digest)
    other = load_base(str(tmp_path), device=CPU).digest
    assert of_weights(other) == of_weights(base.digest)
    assert other == base_digest(base.model, tokenizer)  # As it is in memory, and as it is read back.


def test_a_saved_copy_of_a_folder_has_the_folders_digest(base_folder: Path, tmp_path: Path) -> None:
    loaded = load_base(str(base_folder), device=CPU)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path), device=CPU).digest == loaded.digest


def test_files_written_in_another_way_have_the_same_digest(base_folder: Path, tmp_path: Path) -> None:
    for file in base_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        content = json.loads((tmp_path / name).read_bytes())
        turned = dict(reversed(content.items()))
        (tmp_path / name).write_text(json.dumps(turned, indent=7, ensure_ascii=True))
    template = tmp_path / "chat_template.jinja"
    template.write_bytes(template.read_bytes() + b"\r\n")
    digest = load_base(str(base_folder), device=CPU).digest
    assert load_base(str(tmp_path), device=CPU).digest == digest
    template.unlink()  # An older place of the same template.
    settings = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT_TEMPLATE}))
    assert load_base(str(tmp_path), device=CPU).digest == digest


def test_a_call_and_a_padding_token_leave_the_digest_as_it_is() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    tokenizer.encode("</s>", add_special_tokens=False, split_special_tokens=True)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer_digest(tokenizer) == before


def test_a_tokenizer_in_python_is_named_by_the_files_that_it_saves() -> None:
    from transformers import ByT5Tokenizer

    first, again, other = (ByT5Tokenizer(extra_ids=extra) for extra in (3, 3, 4))
    assert tokenizer_digest(first) == tokenizer_digest(again) != tokenizer_digest(other)


def test_a_digest_of_the_weights_alone_is_taken_for_what_it_says(base: BaseModel, base_folder: Path) -> None:
    load_base(str(base_folder), device=CPU, expected_digest=of_weights(base.digest))
    with pytest.raises(BaseModelError, match=r"its weights or configuration differs; found digest [0-9a-f]{16}…"):
        load_base(str(base_folder), device=CPU, expected_digest="0" * 64)


@pytest.mark.parametrize(
    ("found", "expected", "what"),
    [
        ("aabb", "aabb", None),
        ("aabb", "aa", None),
        ("aa", "aabb", None),
        ("aabb", "ccbb", "weights or configuration"),
        ("aabb", "aacc", "tokenizer or chat template"),
        ("aabb", "ccdd", "weights or configuration"),
        ("aabb", "", "weights or configuration"),
        ("aabb", "a", "weights or configuration"),
        ("aabb", "aabbb", "tokenizer or chat template"),
    ],
)
def test_two_digests_are_told_apart_by_the_first_half_that_differs(found: str, expected: str, what: str | None) -> None:
    """Each letter stands for 32 digits."""
    unlike = difference(*("".join(letter * 32 for letter in digest) for digest in (found, expected)))
    assert (unlike.what if unlike else None) == what
