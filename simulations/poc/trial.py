"""The trial of a proof of concept: one site's records alone and as a federation of their own split, twice.

Everything is `simulate` with its ledgers and reports, on one base in memory, in a folder that is thrown away: nothing
of it is released. The label set is that of all records here, which a real federation would have to agree on.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.simulations.experiment.experiment import DataSource, resolve
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.poc.curve import Curve, fit
from yoriai.simulations.report.report import Report
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.measuring import Measurements
from yoriai.simulations.run.options import Options
from yoriai.simulations.scenarios.partition import partition

PARTS: Final = 4
MOST_TRAIN, FEWEST_TRAIN, MOST_TEST = 500, 50, 200
_ALONE: Final = {
    "federation.min_sites": 1,
    "federation.participation": 1.0,
    "secure_aggregation.enabled": False,
}


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        train, test: records that were used.
        epsilon, delta: of the private trainings, for each record.
        alone, alone_open: all records at one place, with privacy and without.
        together, together_open: the split as a federation, noise shared, and without privacy; the former's report has
            each part alone.
        curve, curve_open: accuracy alone by number of records.
    """

    train: int
    test: int
    epsilon: float
    delta: float
    alone: Report
    alone_open: Report
    together: Report
    together_open: Report
    curve: Curve
    curve_open: Curve


def run_trial(
    train: Sequence[Record],
    test: Sequence[Record],
    *,
    epsilon: float,
    observer: Observer,
    settings: dict[str, object] | None = None,
) -> Trial:
    """Train ten times or so; a head's states are read once.

    Args:
        train, test: records with labels, MOST_TRAIN and MOST_TEST of them at most.
        settings: overrides by dotted key, for every run.

    Raises:
        YoriaiError: the records do not fit the task, or the base does not load.
    """
    labels = sorted({record.response or "" for record in (*train, *test)})
    own = {"evaluation.every": 0, "task.kind": "classify", "task.labels": labels, **(settings or {})}
    sizes = _sizes(len(train))
    with tempfile.TemporaryDirectory(prefix="yoriai-poc-") as name:
        runs = _Runs(Path(name), own, epsilon, observer)
        alone = {size: runs.alone(train[:size], test, private=True) for size in sizes}
        alone_open = {size: runs.alone(train[:size], test, private=False) for size in sizes}
        together, together_open = (runs.together(train, test, private=private) for private in (True, False))
    whole = sizes[-1]
    return Trial(
        train=len(train),
        test=len(test),
        epsilon=epsilon,
        delta=together.privacy.delta or 0.0,
        alone=alone[whole][0],
        alone_open=alone_open[whole][0],
        together=together,
        together_open=together_open,
        curve=fit({size: hits for size, (_, hits) in alone.items()}),
        curve_open=fit({size: hits for size, (_, hits) in alone_open.items()}),
    )


def _sizes(count: int) -> tuple[int, ...]:
    """A quarter, a half and all."""
    return tuple(dict.fromkeys(max(2, count // part) for part in (4, 2, 1)))


class _Runs:
    """Runs in one folder, on one base."""

    def __init__(self, folder: Path, settings: dict[str, object], epsilon: float, observer: Observer) -> None:
        self._folder, self._settings, self._epsilon, self._observer = folder, settings, epsilon, observer
        self._session: ModelSession | None = None
        self._count = 0

    def alone(
        self, train: Sequence[Record], test: Sequence[Record], *, private: bool
    ) -> tuple[Report, NDArray[np.bool_]]:
        """One place with these records: its report, and which test records it got right."""
        settings = {**_ALONE, "training.records_per_weight": len(train), **self._noise("local", private)}
        report, place = self._run({"alone": (train, test)}, settings, alone=False)
        record = Measurements(place / "measurements.json")["federated"]["alone"].per_record
        if record is None:
            raise ValueError("a classifier's answers are kept record by record")
        return report, record.right

    def together(self, train: Sequence[Record], test: Sequence[Record], *, private: bool) -> Report:
        """A federation of equal parts; with privacy each part is trained alone as well."""
        parts = zip(partition(train, PARTS, "iid", 0).values(), partition(test, PARTS, "iid", 0).values(), strict=True)
        sites = {f"part-{number + 1}": part for number, part in enumerate(parts)}
        return self._run(sites, self._noise("distributed", private), alone=private)[0]

    def _noise(self, mode: str, private: bool) -> dict[str, object]:
        return {"privacy.noise": mode, "privacy.epsilon": self._epsilon} if private else {"privacy.noise": "none"}

    def _run(
        self,
        sites: Mapping[str, tuple[Sequence[Record], Sequence[Record]]],
        settings: dict[str, object],
        *,
        alone: bool,
    ) -> tuple[Report, Path]:
        self._count += 1
        records = sum(len(train) for train, _ in sites.values())
        noise = f"epsilon {self._epsilon:g}" if settings["privacy.noise"] != "none" else "no privacy"
        self._observer.say(f"{_parts(sites)}, {records} training records, {noise}")
        data, place = self._folder / f"records-{self._count}", self._folder / f"run-{self._count}"
        for name, (train, test) in sites.items():
            _write(data / name / "train.jsonl", train)
            _write(data / name / "test.jsonl", test)
        source, both = DataSource(path=data), {**self._settings, **settings}
        self._session = self._session or self._loaded(source, both)
        report = simulate(
            data=source,
            settings=both,
            out=place,
            options=Options(alone=alone, samples=False, files=False),
            observer=_OneLine(self._observer),
            session=self._session,
        )
        return report, place

    def _loaded(self, source: DataSource, settings: dict[str, object]) -> ModelSession:
        job = resolve(None, source, settings).job
        self._observer.advance("loading the base model", 0, 0)
        base = load_base(job.base.model, device=choose_device(job.speed.device), expected_digest=job.base.digest)
        return ModelSession(base, job.speed)


class _OneLine:
    """Passes on what advances; what a run says of its folder, which is thrown away, is of no use to anybody."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def advance(self, what: str, done: int, total: int) -> None:
        """Passed on."""
        self._observer.advance(what, done, total)

    def say(self, text: str) -> None:
        """Ignored."""


def _parts(sites: Mapping[str, object]) -> str:
    return "alone" if len(sites) == 1 else f"{len(sites)} parts together"


def _write(path: Path, records: Sequence[Record]) -> None:
    """Records with labels as a file in a folder that this user alone may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": record.prompt, "response": record.response} for record in records]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
