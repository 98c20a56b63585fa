"""Cross-entropy that reads the vocabulary in pieces: the same values and gradients, and no row as long as the whole."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from yoriai.client.model import token_losses as module
from yoriai.client.model.token_losses import token_losses

STATES, VOCABULARY, WIDTH = 5, 23, 4


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three whole ones and a shorter one."""
    monkeypatch.setattr(module, "VOCABULARY_AT_ONCE", 7)


def _drawn(scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(STATES, WIDTH, generator=generator) * scale
    return hidden, torch.randn(VOCABULARY, WIDTH, generator=generator), torch.tensor([0, 6, 7, 22, 15])


def _whole(hidden: Tensor, embedding: Tensor, wanted: Tensor, cap: float | None) -> Tensor:
    logits = hidden @ embedding.T
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return functional.cross_entropy(logits, wanted, reduction="none")


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_losses_and_gradients_are_those_of_whole_rows_of_logits(cap: float | None, scale: float) -> None:
    hidden, embedding, wanted = _drawn(scale)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    found, expected = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    losses, whole = token_losses(found, embedding, wanted, cap), _whole(expected, embedding, wanted, cap)
    torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)
    (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
    (whole * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_not_finite_leaves_the_others_as_they_are() -> None:
    hidden, embedding, wanted = _drawn()
    broken = hidden.clone()
    broken[2] = torch.inf
    one, other = broken.requires_grad_(), hidden.requires_grad_()
    losses, whole = token_losses(one, embedding, wanted), token_losses(other, embedding, wanted)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    whole.sum().backward()  # type: ignore[no-untyped-call]
    kept = [0, 1, 3, 4]
    assert one.grad is not None
    assert other.grad is not None
    assert torch.equal(losses[kept], whole[kept])
    assert torch.equal(one.grad[kept], other.grad[kept])
    assert not torch.isfinite(losses[2])


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most entries that any result had."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_no_tensor_is_as_large_as_whole_rows_of_logits() -> None:
    hidden, _, wanted = _drawn()
    embedding = torch.randn(VOCABULARY, 1)
    with _Largest() as seen:  # type: ignore[no-untyped-call]
        token_losses(hidden[:, :1].requires_grad_(), embedding, wanted).sum().backward()  # type: ignore[no-untyped-call]
    assert seen.entries == STATES * 7
