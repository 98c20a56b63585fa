"""How many records fit a device's memory at once, estimated from what one and two of them take. Public numbers only."""

from collections.abc import Callable
from typing import Final, Protocol

import torch

_USABLE: Final = 0.9  # Of what is free: the allocator's pieces do not fit one another exactly.


class Memory(Protocol):
    """A memory that passes take from."""

    def free_bytes(self) -> int:
        """What may still be taken."""

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """What a run takes at most on top of what is there."""


class CudaMemory:
    """That of one GPU, as torch's allocator has it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """What the GPU has left, with what torch has taken from it and does not use."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + unused

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """See Memory."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        run()
        return torch.cuda.max_memory_allocated(self._device) - before


def memory_of(device: torch.device) -> Memory | None:
    """A GPU's memory; None on a CPU, where pieces are small whatever memory there is (`pieces.py`)."""
    return CudaMemory(device) if device.type == "cuda" else None


def fitting(run: Callable[[int], object], most: int, memory: Memory | None) -> int:
    """How many records may pass at once, from 1 to `most`.

    Args:
        run: passes that many public records.
        memory: where; None where it is no bound.
    """
    if memory is None or most <= 1:
        return most
    one = memory.peak_bytes(lambda: run(1))
    each = max(1, memory.peak_bytes(lambda: run(2)) - one)
    usable = _USABLE * memory.free_bytes() - max(0, one - each)
    return max(1, min(most, int(usable / each)))
