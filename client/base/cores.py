"""Passes of a frozen base side by side, one on each core of a CPU.

Within a pass torch shares out each operation over its threads, and all of them wait for the slowest before the next
one begins. A small base has hundreds of small operations a pass, so that two cores wait for each other much of the
time, and most of it where one of them has other work as well. Passes of one thread each wait for no one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

import torch

Item = TypeVar("Item")

_lock: Final = threading.Lock()
_outside: Final[dict[int, int]] = {}  # By thread that is in a context: the number before the first of all of them.


def cores_of(device: torch.device) -> int:
    """How many passes go side by side there: on a CPU as many as torch has threads, elsewhere one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads for each of this thread's operations, for as long as the context lasts; None leaves the number.

    torch has a number for each thread and one for threads that begin, and to set the one sets the other. Where contexts
    of several threads overlap, the last one to end leaves the number that was there before the first.
    """
    me = threading.get_ident()
    with _lock:
        own = torch.get_num_threads()  # Asked in any case: a thread that never was takes up what others set afterwards.
        is_outermost = me not in _outside
        before = next(iter(_outside.values()), own) if is_outermost else own
        if is_outermost:
            _outside[me] = before
        torch.set_num_threads(count or before)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(before)
            if is_outermost:
                del _outside[me]


def one_core_each(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU one thread for each pass, for as long as the context lasts."""
    return torch_threads(1 if device.type == "cpu" else None)


def side_by_side(
    work: Callable[[Item], None],
    items: Sequence[Item],
    device: torch.device,
    done: Callable[[Item], None] | None = None,
) -> None:
    """Have `work` done for each item, in any order.

    Args:
        work: called in several threads at once, each with as much of autograd as there is here.
        device: where its passes run.
        done: called with each item in turn, here, when the work for it and for those before it is done.

    Raises:
        Exception: what `work` or `done` raised; items that were not begun by then are left out.
    """
    told, cores = done or _untold, cores_of(device)
    if cores == 1:
        with one_core_each(device):
            for item in items:
                work(item)
                told(item)
        return
    has_grad, is_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()  # A thread begins with its own.

    def alone(item: Item) -> None:
        with torch.inference_mode(is_inference), torch.set_grad_enabled(has_grad), one_core_each(device):
            work(item)

    with ThreadPoolExecutor(cores) as pool:
        begun = [pool.submit(alone, item) for item in items]
        try:
            for item, one in zip(items, begun, strict=True):
                one.result()
                told(item)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _untold(_item: object) -> None:
    """No one asked."""
