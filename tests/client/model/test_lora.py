"""LoRA on the base: what is adapted, adapters in and out, and the export to PEFT."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from tests.client.conftest import TARGETS, Attach, start_for
from tests.client.families import tiny
from tests.client.rounds import by_record
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.client.base.base_model import BaseModel, wrap_base
from yoriai.client.base.digest import base_digest
from yoriai.client.model.lora import AdaptedModel, svd_factors
from yoriai.client.model.magnitude import check_magnitude
from yoriai.client.session.export import save_peft
from yoriai.config import LoraSection
from yoriai.errors import AdapterError, BaseModelError, TrainingError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

RULES = ("core", "fedavg", "ffa")
IDS = torch.tensor([[5, 60, 70, 80, 90, 100]])


def _hidden(model: AdaptedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.final_hidden(model.prefix(IDS))


def _logits(model: AdaptedModel) -> torch.Tensor:
    return _hidden(model) @ model.base.model.get_output_embeddings().weight.T


def _wrapped(model: Any) -> BaseModel:
    return wrap_base("other", model, tiny_tokenizer(), device=torch.device("cpu"))


@pytest.mark.parametrize("layers", ["all", "last:2", "last:4"])
def test_the_adapted_maps_are_the_targets_in_the_chosen_layers(attach: Attach, layers: str) -> None:
    model = attach(layers=layers)
    chosen = range(4) if layers == "all" else range(4 - int(layers[-1]), 4)
    expected = {
        f"model.layers.{i}.{part}": shape
        for i in chosen
        for part, shape in (("self_attn.q_proj", (32, 32)), ("self_attn.v_proj", (16, 32)), ("mlp.down_proj", (32, 64)))
    }
    assert model.maps == expected
    assert model.first_layer == min(chosen)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layers", ["all", "last:1", "last:3"])
def test_prefix_and_tail_are_the_whole_adapted_model(attach: Attach, rule: str, layers: str) -> None:
    model = attach(rule, layers=layers)
    model.load(start_for(model, rule))
    with torch.no_grad():
        whole = model.peft_model(input_ids=IDS).logits
    torch.testing.assert_close(_logits(model), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_first_adapter_leaves_the_base_as_it_is(attach: Attach, base: BaseModel, rule: str) -> None:
    with torch.no_grad():
        untouched = base.model(input_ids=IDS).logits
    model = attach(rule)
    model.load(get_rule(rule).initial(model.maps, model.rank, 0, svd_factors(model) if rule == "core" else None))
    torch.testing.assert_close(_logits(model), untouched, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_an_adapter_goes_in_and_out_without_loss(attach: Attach, rule: str) -> None:
    model = attach(rule)
    state = start_for(model, rule)
    model.load(state)
    assert model.state() == state
    assert set(model.factor_parameters()) == set(state.tensors)


def test_a_state_that_was_taken_out_does_not_change_with_the_model(attach: Attach) -> None:
    model = attach("fedavg")
    model.load(start_for(model, "fedavg", seed=1))
    taken = model.state()
    digest = taken.digest()
    model.load(start_for(model, "fedavg", seed=2))
    assert taken.digest() == digest


def _without_one(state: AdapterState) -> AdapterState:
    return AdapterState(dict(list(state.tensors.items())[1:]))


def _reshaped(state: AdapterState) -> AdapterState:
    name = next(iter(state.tensors))
    return AdapterState({**state.tensors, name: state.tensors[name][:1]})  # copy_ would broadcast this row.


def _spoilt(state: AdapterState) -> AdapterState:
    name = next(iter(state.tensors))
    return AdapterState({**state.tensors, name: np.full_like(state.tensors[name], np.nan)})


@pytest.mark.parametrize("change", [_without_one, _reshaped, _spoilt])
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_written(attach: Attach, change: Any) -> None:
    model = attach("fedavg")
    state = start_for(model, "fedavg")
    model.load(state)
    with pytest.raises(AdapterError):
        model.load(change(start_for(model, "fedavg", seed=9)))
    assert model.state() == state


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"rank": 17},
            r"lora.rank is above the size of .*v_proj; found rank 17 on a map of 16x32; expected at most 16",
        ),
        ({"target_modules": ("query",)}, "match no linear map.*found query; expected names such as down_proj, gate"),
        ({"target_modules": ("q_proj", "v_porj")}, "match no linear map.*found v_porj"),
        ({"target_modules": ("lm_head",)}, "match no linear map.*found lm_head"),
        ({"layers": "last:5"}, "more layers than the base has; found last:5; expected at most last:4"),
    ],
)
def test_settings_that_do_not_fit_are_named_and_leave_the_base_whole(
    base: BaseModel, lora: dict[str, Any], message: str
) -> None:
    section = LoraSection(**{"rank": 4, "layers": "last:2", "target_modules": TARGETS, **lora})
    with pytest.raises(BaseModelError, match=message):
        AdaptedModel(base, section, factors=("A", "R", "U"))
    assert base_digest(base.model, base.tokenizer) == base.digest
    assert not [name for name, _ in base.model.named_modules() if "lora" in name]


def test_detaching_gives_the_base_back(attach: Attach, base: BaseModel) -> None:
    first = attach("core")
    first.load(start_for(first, "core"))
    first.set_trainable(("R",))
    for rule, rank in (("fedavg", 8), ("core", 2), ("ffa", 4)):
        model = attach(rule, rank=rank)
        assert {name.rsplit(":", 1)[1] for name in model.factor_parameters()} == set(get_rule(rule).factors)
        model.load(start_for(model, rule))
        found = by_record(
            model, get_rule(rule).trainable(0), partial(model.final_hidden, model.prefix(IDS.repeat(3, 1)))
        )
        assert all(len(gradients) == 3 for gradients in found.values())
    model.detach()
    assert base_digest(base.model, base.tokenizer) == base.digest


def test_only_the_named_factors_train(attach: Attach) -> None:
    model = attach("fedavg")
    for factors in (("A",), ("B",), ("A", "B"), ("A",)):
        trained = model.set_trainable(factors)
        assert list(trained) == sorted(name for name in model.factor_parameters() if name[-1] in factors)
        assert set(by_record(model, factors, lambda: model.final_hidden(model.prefix(IDS)))) == set(trained)


def test_a_prefix_is_cut_off_from_gradients(attach: Attach) -> None:
    assert not attach("core").prefix(IDS).requires_grad


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("alpha", [8.0, 2.5])
def test_peft_loads_the_export_and_computes_the_same(attach: Attach, tmp_path: Path, rule: str, alpha: float) -> None:
    model = attach(rule, alpha=alpha)
    state = start_for(model, rule)
    model.load(state)
    save_peft(model, get_rule(rule).to_peft(state), tmp_path)
    tokenizer = tiny_tokenizer()
    fresh = PeftModel.from_pretrained(tiny_llama(tokenizer), str(tmp_path)).eval()
    with torch.no_grad():
        logits = fresh(input_ids=IDS).logits
        assert (logits - _logits(model)).abs().max() < 1e-5
        assert (logits - tiny_llama(tokenizer)(input_ids=IDS).logits).abs().max() > 1e-3
        generated = fresh.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > IDS.shape[1]


def test_core_exported_as_lora_computes_what_core_does(attach: Attach) -> None:
    model = attach("core")
    state = start_for(model, "core")
    model.load(state)
    expected = _logits(model)
    lora = attach("fedavg")
    lora.load(get_rule("core").to_peft(state))
    torch.testing.assert_close(_logits(lora), expected, rtol=1e-5, atol=1e-5)


def test_svd_factors_are_the_best_of_their_rank(attach: Attach) -> None:
    model = attach("core")
    for path, (left, right) in svd_factors(model).items():
        weight = model.base_weight(path).numpy()
        best = np.linalg.svd(weight, compute_uv=False)
        residual = np.linalg.norm(weight - left @ right)
        assert residual == pytest.approx(np.linalg.norm(best[model.rank :]), rel=1e-4)
        np.testing.assert_allclose(right @ right.T, np.eye(model.rank), atol=1e-5)


def test_a_model_that_computes_no_numbers_is_found_on_public_tokens(attach: Attach) -> None:
    model = attach("fedavg")
    state = start_for(model, "fedavg")
    model.load(state)
    model.check_output()
    with torch.no_grad():
        for parameter in model.factor_parameters().values():
            parameter.fill_(1e30)
    with pytest.raises(TrainingError, match="before any record is looked at"):
        model.check_output()


def test_a_base_whose_parts_do_not_add_up_is_refused_and_left_whole() -> None:
    """Granite scales its logits, which hidden states times the output embedding would miss."""
    granite = _wrapped(tiny("granite", logits_scaling=4.0))
    with pytest.raises(BaseModelError, match=r"does not part.*GraniteForCausalLM"):
        AdaptedModel(granite, LoraSection(rank=2, layers="all"), factors=("A", "B"))
    assert base_digest(granite.model, granite.tokenizer) == granite.digest


@pytest.mark.parametrize("rule", ["core", "fedavg", "flora"])
def test_an_adapter_out_of_all_proportion_to_the_base_is_refused(attach: Attach, rule: str) -> None:
    model = attach(rule)
    start = start_for(model, rule)
    model.check(start)
    last = sorted(start.tensors)[-1]
    for size, said in ((1e4, "what the adapter adds"), (1e7, "factor .* is too large")):
        tensors = {**start.tensors, last: np.full_like(start.tensors[last], size)}
        with pytest.raises(AdapterError, match=said):
            model.check(AdapterState(tensors))


def test_the_norm_of_what_is_added_is_that_of_the_product() -> None:
    generator = np.random.default_rng(0)
    shapes = {"m:A": (3, 7), "m:R": (3, 3), "m:U": (9, 3)}
    state = AdapterState({name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    exact = float(np.linalg.norm(state.product("m")))
    check_magnitude(state, {"m": 2.0 * exact / 99.9}, 2.0)
    with pytest.raises(AdapterError, match="100 times that of the base's largest"):
        check_magnitude(state, {"m": 2.0 * exact / 100.1}, 2.0)
