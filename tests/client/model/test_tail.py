"""The tail of layers: what is asked for at one position is what all positions give there, in values and gradients."""

import pytest
import torch
from torch.nn import functional

from tests.client.conftest import Attach, start_for
from tests.client.rounds import by_record
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.client.base.base_model import wrap_base
from yoriai.client.model import tail
from yoriai.client.model.lora import AdaptedModel

TOKENS = torch.tensor([[5, 60, 70, 0, 0], [80, 90, 100, 110, 120], [130, 0, 0, 0, 0]])
AT = torch.tensor([2, 4, 0])
ROWS = torch.arange(3)


def _record_gradients(model: AdaptedModel, factors: tuple[str, ...], *, early: bool) -> list[torch.Tensor]:
    """The gradients of a loss at each record's own position."""
    entering = model.prefix(TOKENS)

    def losses() -> torch.Tensor:
        hidden = model.final_hidden(entering, AT) if early else model.final_hidden(entering)[ROWS, AT]
        return functional.cross_entropy(hidden, torch.tensor([1, 2, 3]), reduction="none")

    return list(by_record(model, factors, losses).values())


@pytest.mark.parametrize("rule", ["core", "fedavg"])
@pytest.mark.parametrize("layers", ["last:1", "last:2", "all"])
def test_one_position_is_what_all_positions_give_there(attach: Attach, rule: str, layers: str) -> None:
    model = attach(rule, layers=layers)
    model.load(start_for(model, rule))
    with torch.no_grad():
        entering = model.prefix(TOKENS)
        torch.testing.assert_close(
            model.final_hidden(entering, AT), model.final_hidden(entering)[ROWS, AT], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("rule", "factors"), [("core", ("R",)), ("fedavg", ("A", "B")), ("ffa", ("B",))])
def test_per_record_gradients_are_those_of_the_whole(attach: Attach, rule: str, factors: tuple[str, ...]) -> None:
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    model = attach(rule, target_modules=targets)
    model.load(start_for(model, rule))
    early, whole = (_record_gradients(model, factors, early=early) for early in (True, False))
    assert len(early) == len(whole) == 2 * len(targets) * len(factors)
    for found, expected in zip(early, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_last_layers_feed_forward_part_runs_on_one_row_a_record(attach: Attach) -> None:
    model = attach("core")
    seen: list[tuple[int, ...]] = []
    with torch.no_grad():
        layers = model.tail.decoder.layers
        hooks = [layer.mlp.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape)) for layer in layers]
        model.final_hidden(model.prefix(TOKENS), AT)
    for hook in hooks:
        hook.remove()
    assert [shape[1] for shape in seen] == [TOKENS.shape[1], 1]


def test_layers_of_another_build_run_whole_and_give_the_same(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    known = attach("core")
    start = start_for(known, "core")
    known.load(start)
    with torch.no_grad():
        expected = known.final_hidden(known.prefix(TOKENS), AT)
    monkeypatch.setattr(tail, "_KNOWN_LAYERS", ())
    other = attach("core")
    assert not other.tail.can_stop_early
    other.load(start)
    with torch.no_grad():
        torch.testing.assert_close(other.final_hidden(other.prefix(TOKENS), AT), expected, rtol=1e-5, atol=1e-6)


def test_padding_touches_no_record_where_attention_is_causal_by_mask_alone(attach: Attach) -> None:
    """Attention that weighs little at first hides the difference from the comparison of both ways at the start."""
    tokenizer = tiny_tokenizer()
    network = tiny_llama(tokenizer)
    network.set_attn_implementation("eager")
    for layer in network.model.layers:
        layer.self_attn.o_proj.weight.data.mul_(1e-4)
    base = wrap_base("eager", network, tokenizer, device=torch.device("cpu"))
    model = attach("fedavg", on=base, target_modules=("o_proj",))
    with torch.no_grad():
        for name, tensor in start_for(model, "fedavg").tensors.items():
            model.factor_parameters()[name].copy_(torch.from_numpy(tensor))
        entering, at = model.prefix(TOKENS[:1]), torch.tensor([2])
        alone, padded = model.final_hidden(entering[:, :3], at), model.final_hidden(entering, at)
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)
