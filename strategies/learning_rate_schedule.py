"""How long steps are, round by round: a function of the job, so the same on resume and on both sides."""

import math


def schedule_factor(schedule: str, round_index: int, rounds: int) -> float:
    """Share of a learning rate that is left in a round: 1 in the first, towards 0 at the end unless constant."""
    if schedule == "linear":
        return 1.0 - round_index / rounds
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * round_index / rounds))
    return 1.0
