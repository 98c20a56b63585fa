"""Norms and sums of rows in float64, a core's cache at a time.

A row of gradients is float32 and long. Turned into float64 as a whole it would go out to memory and come back for each
step. Here a span of it is turned into float64, and measured or added, while it lies in a core's cache; then the same
span of the next row. Spans follow from a row's length alone, and a span of the sum takes the rows in their order: so
each row's norm, and the sum, are the same to the bit whatever the number of rows and threads.

On a CPU by numpy alone: torch's threads, woken for each of these small operations, cost more than they take over, and
would wait for those of numpy's own library, which works on rows in turn with them where noise is distributed.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

_SPAN: Final = 1 << 16
# Fewer numbers than this are done before a thread has started.
_WORTH_THREADS: Final = 1 << 20
# More of them would wait for each other between numpy's calls.
_MOST_THREADS: Final = 8

T = TypeVar("T")


def norms(rows: Sequence[Tensor]) -> list[float]:
    """The L2 norm of each row, in float64; of a row that is not finite, infinity or NaN.

    Precision: on a CPU a norm is that of exact arithmetic to within (2^16 + n / 2^16) / 2 + 2 units of 2^-53, below
        8e-12 for any n up to 2^32; elsewhere to within n / 2 + 2. No square of a float32 overflows or vanishes.

    Args:
        rows: each (n,) float32, or float64 that is a sum of such; on one device.
    """
    if not rows:
        return []
    if rows[0].device.type != "cpu":
        return [math.sqrt(float(torch.dot(whole, whole))) for whole in (row.double() for row in rows)]
    arrays = [row.numpy() for row in rows]

    def squares(span: slice) -> list[float]:
        work, found = np.empty(len(arrays[0][span])), []
        for array in arrays:
            np.copyto(work, array[span])
            found.append(float(np.einsum("i,i->", work, work)))
        return found

    by_span = _each_span(squares, len(arrays[0]), len(arrays))
    return [math.sqrt(sum(parts)) for parts in zip(*by_span, strict=True)]


def add_scaled(total: Tensor, rows: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Add each row times its factor to `total`, in their order; every product and addition is one of float64.

    Args:
        total: (n,) float64.
        rows: each (n,) float32 or float64, on the same device.
        factors: one a row.
    """
    if not rows:
        return
    if total.device.type != "cpu":
        for row, factor in zip(rows, factors, strict=True):
            total += row.double() * factor
        return
    whole, arrays = total.numpy(), [row.numpy() for row in rows]

    def add(span: slice) -> None:
        onto = whole[span]
        work = np.empty(len(onto))
        for array, factor in zip(arrays, factors, strict=True):
            np.copyto(work, array[span])
            if factor != 1.0:
                np.multiply(work, factor, out=work)
            np.add(onto, work, out=onto)

    _each_span(add, len(whole), len(arrays))


def _each_span(work: Callable[[slice], T], length: int, rows: int) -> list[T]:
    """The work on each span of rows of a length, on as many threads as torch has where there is enough of it."""
    spans = [slice(start, start + _SPAN) for start in range(0, length, _SPAN)]
    threads = min(torch.get_num_threads(), len(spans), _MOST_THREADS)
    if threads <= 1 or rows * length < _WORTH_THREADS:
        return [work(span) for span in spans]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, spans))
