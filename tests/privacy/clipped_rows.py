"""What a clipped sum is made of."""

import numpy as np


class Kept:
    """Clipped rows, by their bytes."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def add(self, rows: np.ndarray) -> None:
        self.rows += [row.tobytes() for row in rows]
