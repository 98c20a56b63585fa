"""Mixed ranks: a site with less memory trains the leading directions of the shared adapter, and the mean allows for it.

    ΔB_k = [ΔB_k[:, :r_k], 0]        mean[:, j] = Σ w_k ΔB_k[:, j] / Σ w_k, both over the sites with r_k > j

The same holds for the rows of A and for the leading r_k by r_k block of R. Every site computes with the whole adapter;
only its update is narrow. A direction that no site of a round holds stays where it is.

A rank that few sites have opens the sum of those few. Which sets of sites may be summed at all is therefore judged
under the secure sum, before anything opens: see `privacy.secagg.ranks`.
Reference: the padding is that of HetLoRA (Cho et al. 2024, arXiv 2401.06432), without its decay and self-pruning.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.factors import RANK_AXES

Block = tuple[slice, ...]
"""The part of a tensor that a rank holds, one slice an axis."""

Holders = Mapping[str, tuple[float, int | None]]
"""Weight and rank by site; rank None holds everything."""


def rank_block(name: str, shape: tuple[int, ...], rank: int | None) -> Block:
    """The block of a tensor that a site of this rank trains; all of it for None, or a rank that is not below its own.

    Args:
        name: as in AdapterState, "<module path>:<factor>".

    Raises:
        AdapterError: the factor does not count directions, so that no rank says which part of it to train; or the
            rank is below 1.
    """
    factor = name.rpartition(":")[2]
    if rank is None:
        return tuple(slice(0, size) for size in shape)
    if rank < 1:
        raise AdapterError("the rank of a site", found=str(rank), expected="at least 1")
    if factor not in RANK_AXES:
        raise AdapterError(
            f"tensor {name} has no leading directions",
            expected=f"a factor out of {', '.join(sorted(RANK_AXES))}",
            remedy="give all sites the job's rank, or choose another rule",
        )
    return tuple(slice(0, min(rank, size) if axis in RANK_AXES[factor] else size) for axis, size in enumerate(shape))


def restricted_to_block(state: AdapterState, rank: int | None) -> AdapterState:
    """The state with zeros outside what the rank holds. Raises AdapterError as `rank_block`."""
    tensors = {}
    for name, tensor in state.tensors.items():
        block = rank_block(name, tensor.shape, rank)
        tensors[name] = np.zeros_like(tensor)
        tensors[name][block] = tensor[block]
    return AdapterState(tensors)


def block_size(like: AdapterState, rank: int | None) -> int:
    """How many entries of a state a site of this rank trains. Raises AdapterError as `rank_block`."""
    return sum(tensor[rank_block(name, tensor.shape, rank)].size for name, tensor in like.tensors.items())


def divisors(like: AdapterState, holders: Holders) -> dict[str, NDArray[np.float64]]:
    """For every entry of every tensor, the sum of the weights of the sites that hold it; zero where none does.

    Args:
        like: names and shapes.

    Raises:
        AdapterError: as `rank_block`.
    """
    sums = {name: np.zeros(tensor.shape, np.float64) for name, tensor in like.tensors.items()}
    for site in sorted(holders):
        weight, rank = holders[site]
        for name, total in sums.items():
            total[rank_block(name, total.shape, rank)] += weight
    return sums


def block_mean(updates: Mapping[str, tuple[float, AdapterState]], ranks: Mapping[str, int]) -> AdapterState:
    """The weighted mean in which every entry is divided by the weight of the sites that hold it; zero where none does.

    Without ranks this is `weighted_mean`, to the bit. Added in float64 in the order of the sites' names, and rounded
    once.

    Args:
        updates: weight and update by site.
        ranks: by site; a site without one holds everything.

    Raises:
        AdapterError: as `weighted_mean` and `rank_block`, or an update is not zero outside what its site holds.
    """
    mean = weighted_mean(updates)
    if not any(site in ranks for site in updates):
        return mean
    holders = {site: (weight, ranks.get(site)) for site, (weight, _) in updates.items()}
    below = divisors(mean, holders)
    above = {name: np.zeros(total.shape, np.float64) for name, total in below.items()}
    for site in sorted(updates):
        weight, update = updates[site]
        check_block(update, ranks.get(site))
        for name, tensor in update.tensors.items():
            above[name] += weight * tensor.astype(np.float64)
    tensors: dict[str, NDArray[np.floating]] = {n: _divided(total, below[n]) for n, total in above.items()}
    return AdapterState({name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def check_block(update: AdapterState, rank: int | None) -> None:
    """Raises AdapterError, naming the first such tensor, when an update is not zero outside what the rank holds."""
    if rank is None:
        return
    inside = restricted_to_block(update, rank)
    for name, tensor in update.tensors.items():
        if not np.array_equal(tensor, inside.tensors[name]):
            raise AdapterError(f"the update of tensor {name} goes beyond the site's rank", expected=f"rank {rank}")


def corrections(like: AdapterState, holders: Holders) -> NDArray[np.float64]:
    """What turns a mean over all sites into one over the holders, entry by entry: total weight over the holders' own.

    Returns:
        (n,), float64, in the order of `AdapterState.flatten`; exactly 1 where all hold the entry, 0 where none does.

    Raises:
        AdapterError: as `rank_block`.
    """
    total = sum(holders[site][0] for site in sorted(holders))
    below = np.concatenate([d.ravel() for d in divisors(like, holders).values()])
    return _divided(total, below)


def _divided(above: NDArray[np.float64] | float, below: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient, and zero where nothing holds the entry."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
