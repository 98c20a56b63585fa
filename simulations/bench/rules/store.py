"""What was measured, one JSON line a training: a benchmark that is interrupted goes on where it stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from yoriai.errors import CheckpointError
from yoriai.simulations.bench.rules.plan import Training
from yoriai.system.run_files import run_file_fault, write_run_file


@dataclass(frozen=True)
class Measured:
    """What came of a training.

    Attributes:
        correct, records: right answers among how many, by site.
        seconds: of a round, on average: training at all sites one after another, and the coordinator.
        bytes_up, bytes_down: of a round, by site on average, with envelope.
        product_error: of the round that was furthest off, relative to the mean product, and to its move; None where
            there was no federation.
    """

    correct: dict[str, int]
    records: dict[str, int]
    seconds: float
    bytes_up: int
    bytes_down: int
    product_error: tuple[float, float] | None = None

    @property
    def accuracy(self) -> float:
        """Over all sites' records together."""
        return sum(self.correct.values()) / sum(self.records.values())


class Store:
    """A file of measurements.

    Args:
        path: made when missing.

    Raises:
        CheckpointError: a line other than the last cannot be read, or the file cannot be written. A last line that was
            cut short is removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Measured] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines() if path.exists() else []
        except OSError as fault:
            raise run_file_fault(path, fault) from fault
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                error = entry["measured"].pop("product_error")
                self._known[entry["training"]] = Measured(
                    **entry["measured"], product_error=tuple(error) if error else None
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                if number < len(lines):
                    raise CheckpointError(
                        f"{path} line {number} cannot be read", remedy="remove the line; it is measured anew"
                    ) from None
                write_run_file(path, "".join(f"{whole}\n" for whole in lines[:-1]).encode())

    def get(self, training: Training) -> Measured | None:
        """What is known of a training."""
        return self._known.get(training.key())

    def put(self, training: Training, measured: Measured) -> None:
        """Keep and append."""
        self._known[training.key()] = measured
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"training": training.key(), "measured": asdict(measured)}) + "\n")
        except OSError as error:
            raise run_file_fault(self._path, error) from error
