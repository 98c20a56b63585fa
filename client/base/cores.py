"""Passes of a frozen base side by side, one on each core of a CPU.

Within a pass torch shares out each operation over its threads, and all of them wait for the slowest before the next
one begins. A small base has hundreds of small operations a pass, so that two cores wait for each other much of the
time, and most of it where one of them has other work as well. Passes of one thread each wait for no one.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


def cores_of(device: torch.device) -> int:
    """How many passes go side by side there: on a CPU as many as torch has threads, elsewhere one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads for each operation, for as long as the context lasts; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_core_each(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU one thread for each pass, for as long as the context lasts; in threads that begin in it, for good."""
    return torch_threads(1 if device.type == "cpu" else None)


def side_by_side(
    work: Callable[[Item], None],
    items: Sequence[Item],
    device: torch.device,
    done: Callable[[Item], None] | None = None,
) -> None:
    """Have `work` done for each item, in any order.

    Args:
        work: called in several threads at once.
        device: where its passes run.
        done: called with each item in turn, here, when the work for it and for those before it is done.

    Raises:
        Exception: what `work` or `done` raised; items that were not begun by then are left out.
    """
    told, cores = done or _untold, cores_of(device)
    with one_core_each(device):
        if cores == 1:
            for item in items:
                work(item)
                told(item)
            return
        with ThreadPoolExecutor(cores) as pool:
            begun = [pool.submit(work, item) for item in items]
            try:
                for item, one in zip(items, begun, strict=True):
                    one.result()
                    told(item)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _untold(_item: object) -> None:
    """No one asked."""
