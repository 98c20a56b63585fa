"""What tests of the ledger share."""

import sqlite3
from pathlib import Path
from typing import Any

from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.ledger.ledger import Ledger

DELTA = 1e-5
EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=2)
OTHER = SampledGaussian(sampling_rate=0.2, noise_multiplier=2.0)


def open_ledger(path: Path, **changes: Any) -> Ledger:
    """A ledger of data set north with a budget of 8, and with changes."""
    settings: dict[str, Any] = {"dataset": "north", "epsilon_budget": 8.0, "delta": DELTA, "clock": lambda: 1.0e9}
    return Ledger.open(path, **{**settings, **changes})


def charge(ledger: Ledger, job_id: str, rounds: int, event: SampledGaussian = EVENT) -> None:
    """Reserve and release the first rounds of a job."""
    for index in range(rounds):
        ledger.reserve(job_id, index, event)
        ledger.mark_released(job_id, index)


def order_of(ledger: Ledger) -> int:
    """The order that the ledger's first plan fixed."""
    order = ledger.further_jobs().order
    assert order is not None
    return order


def tamper(path: Path, statement: str) -> None:
    """Run SQL on a ledger that would not let it be run."""
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_update")
        db.execute("DROP TRIGGER no_delete")
        db.execute(statement)
    db.close()
