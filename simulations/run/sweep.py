"""The same records at several epsilons: whether it is worth while to train together, in one table.

Each cell is a whole run with its ledgers, its secure aggregation and its report, in a folder of its own; they share the
base in memory, and with it the states of the records.

FOLDER/
  epsilon-8-shared/ …        the runs (api.py); the first one's adapter is what a user would take
  split-1/epsilon-8-shared/  the same on other splits into training and test records, where several are asked for
  sweep.json  sweep.png      all their figures
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.simulations.experiment.experiment import DataSource, resolve
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.report.report import Report, Score
from yoriai.simulations.run.api import resume, simulate
from yoriai.simulations.run.options import Options
from yoriai.system.run_files import write_run_file

EPSILONS: Final = (8.0, 3.0, 1.0)
SWEEP_FILE: Final = "sweep.json"
SWEEP_FIGURE: Final = "sweep.png"
# Row, the noise of the run it is taken from, and its name in that run's report.
ROWS: Final = (
    ("each site alone", "distributed", "local"),
    ("counting words together", "distributed", "naive_bayes_private"),
    ("together, each with its own noise", "local", "federated"),
    ("together, noise shared", "distributed", "federated"),
)
_FOLDERS: Final = {"distributed": "shared", "local": "own"}


@dataclass(frozen=True)
class Sweep:
    """Accuracy over all sites' test records; the mean over several splits, with the 95 % t interval of that mean.

    Attributes:
        title: of the records.
        splits: into training and test records.
        delta: of every guarantee.
        rows: by name, a score for each epsilon; None where it was not measured.
        yardsticks: what needs no privacy: the commonest label, the untouched base, counting everybody's words.
        main: the report of the first run.
    """

    title: str
    splits: int
    delta: float
    epsilons: tuple[float, ...]
    rows: Mapping[str, tuple[Score | None, ...]]
    yardsticks: Mapping[str, Score]
    main: Report


def sweep(
    source: DataSource,
    epsilons: Sequence[float],
    folder: Path,
    observer: Observer,
    settings: Mapping[str, object] | None = None,
    splits: int = 1,
) -> Sweep:
    """Run what is not there yet, and write the figures.

    Args:
        epsilons: each above 0; the first run is at the first of them, with noise shared.
        folder: runs that are finished in it are not run again.
        settings: overrides by dotted key, for every run.
        splits: the source's seed and those after it.

    Raises:
        YoriaiError: as `simulate`; the records are of another task than classify.
    """
    own = dict(settings or {})
    experiment = resolve(None, source, own)
    if not experiment.job.trains_head:
        raise ConfigError(
            "a sweep trains some ten times over, which takes seconds for a head alone",
            found=f"task.kind = {experiment.job.task.kind}",
            expected="records with labels",
            remedy="run yoriai simulate --compare once for each epsilon",
        )
    session = _session(experiment.job, observer)
    each = [
        dict(_reports(replace(source, seed=source.seed + split), epsilons, place, session, observer, own))
        for split, place in enumerate(_places(folder, splits))
    ]
    main = each[0]["distributed", epsilons[0]]

    def score(noise: str, epsilon: float, training: str) -> Score | None:
        return _over_splits([reports[noise, epsilon].overall.get(training) for reports in each])

    rows = {row: tuple(score(noise, epsilon, training) for epsilon in epsilons) for row, noise, training in ROWS}
    kept = ("majority", "base", "naive_bayes_all")
    yardsticks = {name: of for name in kept if (of := score("distributed", epsilons[0], name)) is not None}
    found = Sweep(main.data.title, splits, main.privacy.delta or 0.0, tuple(epsilons), rows, yardsticks, main)
    write_run_file(folder / SWEEP_FILE, json.dumps(_document(found), indent=1).encode())
    return found


def run_folder_of(folder: Path, noise: str, epsilon: float) -> Path:
    """Of one run in a sweep's folder."""
    return folder / f"epsilon-{epsilon:g}-{_FOLDERS[noise]}"


def _places(folder: Path, splits: int) -> list[Path]:
    """Where the runs of each split lie."""
    return [folder, *(folder / f"split-{number}" for number in range(1, splits))]


def _over_splits(scores: Sequence[Score | None]) -> Score | None:
    """The mean of a score over splits; None where one of them lacks it."""
    found = [score for score in scores if score is not None and score.accuracy is not None]
    if len(found) < len(scores):
        return None
    if len(found) == 1:
        return found[0]
    rates = np.array([score.accuracy for score in found])
    half = float(stats.t.ppf(0.975, len(rates) - 1)) * rates.std(ddof=1) / len(rates) ** 0.5
    mean = float(rates.mean())
    f1 = [score.macro_f1 for score in found if score.macro_f1 is not None]
    return Score(
        records=sum(score.records for score in found),
        accuracy=mean,
        macro_f1=float(np.mean(f1)) if len(f1) == len(found) else None,
        interval=(max(0.0, mean - half), min(1.0, mean + half)),
    )


def _session(job: JobConfig, observer: Observer) -> ModelSession:
    observer.advance("loading the base model", 0, 0)
    device = choose_device(job.speed.device)
    return ModelSession(load_base(job.base.model, device=device, expected_digest=job.base.digest), job.speed)


def _reports(
    source: DataSource,
    epsilons: Sequence[float],
    folder: Path,
    session: ModelSession,
    observer: Observer,
    own: Mapping[str, object],
) -> Iterator[tuple[tuple[str, float], Report]]:
    """Every run's report by noise and epsilon; those of shared noise measure each site alone too."""
    cells = [(noise, epsilon) for noise in _FOLDERS for epsilon in epsilons]
    for number, (noise, epsilon) in enumerate(cells, start=1):
        observer.say(f"run {number} of {len(cells)} in {folder}: epsilon {epsilon:g}, {_FOLDERS[noise]} noise")
        place = run_folder_of(folder, noise, epsilon)
        if (place / "run.json").exists():
            yield (noise, epsilon), resume(place, observer=observer)
            continue
        settings = {"evaluation.every": 0, **own, "privacy.epsilon": epsilon, "privacy.noise": noise}
        options = Options(alone=noise == "distributed")
        report = simulate(
            data=source, settings=settings, out=place, options=options, observer=observer, session=session
        )
        yield (noise, epsilon), report


def _document(found: Sweep) -> dict[str, Any]:
    def shown(score: Score | None) -> dict[str, Any] | None:
        return None if score is None else score.model_dump(mode="json", exclude_none=True)

    return {
        "schema": 1,
        "title": found.title,
        "splits": found.splits,
        "delta": found.delta,
        "epsilons": list(found.epsilons),
        "rows": {row: [shown(score) for score in scores] for row, scores in found.rows.items()},
        "yardsticks": {name: shown(score) for name, score in found.yardsticks.items()},
    }
