"""What a clipped sum is made of: rows, and records' gradients as Opacus makes them."""

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor


class Finished:
    """Clipped rows."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        self.rows += [row.copy() for row in rows]


class Kept:
    """Clipped rows, by their bytes."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def add(self, rows: np.ndarray) -> None:
        self.rows += [row.tobytes() for row in rows]


def opacus_rows(network: GradSampleModule, records: Tensor) -> Tensor:
    """Each record's gradient of the squares of what the network makes of it, (N, n)."""
    network(records).square().sum().backward()
    rows = torch.cat([p.grad_sample.flatten(1) for p in network.parameters()], dim=1)  # type: ignore[union-attr,operator]
    network.zero_grad()
    for parameter in network.parameters():
        parameter.grad_sample = None  # type: ignore[assignment]
    return rows
