"""DP-SGD's release: per-record gradients, clipped over all trainable factors together, summed, noised once (Abadi et
al. 2016).

Opacus computes the per-record gradients (`parameter.grad_sample`). Clipping, the sum over the pieces of a batch, the
noise and the public divisor are done here, because the noise must come from a cryptographic stream, the divisor must
not be the live batch size, and a release must return the event that it costs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.errors import TrainingError
from yoriai.privacy.accounting import SampledGaussian
from yoriai.privacy.mechanisms import clip_factors, gaussian_mechanism
from yoriai.privacy.randomness import RandomSource


class ClippedGradientSum:
    """Sum of one logical batch's clipped per-record gradients, gathered in physical pieces.

    Sensitivity: adding or removing one record moves the sum by at most `clip_norm` in L2 norm over all parameters
    together. Edge cases: a record whose gradient is not finite counts as zero; an empty batch sums to zero and is
    noised like any other.

    Args:
        parameters: trainable tensors, whose `grad_sample` (N, *shape) Opacus fills.
        clip_norm: bound on one record's gradient norm; None sums without a bound, and such a sum cannot be released.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], clip_norm: float | None) -> None:
        self._parameters = list(parameters)
        self._clip_norm = clip_norm
        self._sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in self._parameters]
        self._clear()  # What a round that broke off left behind belongs to no record of this batch.

    @torch.no_grad()
    def add_piece(self) -> None:
        """Clip and add the per-record gradients that one backward pass left, and clear them.

        Raises:
            TrainingError: a parameter got no per-record gradients, or those of another number of records, or of
                several passes.
        """
        gradients = [_grad_sample(parameter) for parameter in self._parameters]
        if len({len(gradient) for gradient in gradients}) != 1:
            raise TrainingError("the trained factors hold gradients of different numbers of records")
        factors = torch.ones(len(gradients[0]), device=gradients[0].device)
        if self._clip_norm is not None:
            squared = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)  # (N,)
            norms = squared.sqrt().double().cpu().numpy()
            factors = torch.from_numpy(clip_factors(norms, self._clip_norm)).to(gradients[0])
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.add_(torch.einsum("n,n...->...", factors, torch.nan_to_num(gradient, 0.0, 0.0, 0.0)))
        self._clear()

    def flat(self) -> np.ndarray:
        """The sum as one float64 vector (n,), in the order of the parameters. Private until noised."""
        return torch.cat([total.flatten() for total in self._sums]).cpu().numpy()

    def release(
        self, *, noise_multiplier: float, sampling_rate: float, source: RandomSource
    ) -> tuple[np.ndarray, SampledGaussian]:
        """The noised sum (n,) float64, together with the event that it costs.

        Guarantee, assumptions and reference are those of `mechanisms.gaussian_mechanism`; the records of the batch
        must have been drawn by Poisson sampling at `sampling_rate`.
        """
        if self._clip_norm is None:
            raise TrainingError("an unclipped gradient sum has no sensitivity and cannot be released")
        return gaussian_mechanism(
            self.flat(),
            clip_norm=self._clip_norm,
            noise_multiplier=noise_multiplier,
            sampling_rate=sampling_rate,
            source=source,
        )

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None


def split_like(vector: np.ndarray, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """Cut a flat vector (n,) back into tensors of the parameters' shapes, types and devices."""
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        yield torch.from_numpy(vector[start:stop]).to(parameter).view_as(parameter)
        start = stop


def _grad_sample(parameter: nn.Parameter) -> Tensor:
    """Opacus' per-record gradients of one parameter, (N, *shape)."""
    samples = parameter.grad_sample  # type: ignore[attr-defined]
    if not isinstance(samples, Tensor):
        # A list holds several backward passes: whether its rows are the same records or others, nobody can tell.
        raise TrainingError(
            "a trained factor has no per-record gradients of one backward pass",
            found="several passes" if samples else "none",
            expected="one forward, one backward, one piece",
        )
    return samples.float()
