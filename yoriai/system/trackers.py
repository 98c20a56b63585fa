"""One hook for trackers of experiments: MLflow and Trackio, which the extra `track` brings. Neither is needed.

A tracker is told of a run by its name, of public settings, and of figures by round: never of a record or a tensor.
Where it puts them is its own setting (`MLFLOW_TRACKING_URI`, `TRACKIO_DIR`, ...); this module names no server and asks
both to send nothing about their use.
"""

import contextlib
import importlib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from yoriai.errors import ConfigError

TRACKERS: Final = ("mlflow", "trackio")
# What a line of metrics says beside its figures.
_NO_FIGURES: Final = ("schema", "run", "round")


class Tracker(Protocol):
    """What a run's figures are told to."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """The figures of a round, counted from 1."""
        ...

    def end(self) -> None:
        """The run is over."""
        ...


class _MLflow:
    def __init__(self, project: str, run: str, settings: Mapping[str, str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow = _imported("mlflow")
        self._mlflow.set_experiment(project)
        self._mlflow.start_run(run_name=run)
        self._mlflow.log_params(dict(settings))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As `Tracker.log`."""
        self._mlflow.log_metrics(dict(figures), step=step)

    def end(self) -> None:
        """As `Tracker.end`."""
        self._mlflow.end_run()


class _Trackio:
    def __init__(self, project: str, run: str, settings: Mapping[str, str]) -> None:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self._trackio = _imported("trackio")
        with contextlib.redirect_stdout(io.StringIO()):  # It tells how to look at its dashboard.
            self._trackio.init(project=project, name=run, config=dict(settings), embed=False)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As `Tracker.log`."""
        self._trackio.log(dict(figures), step=step)

    def end(self) -> None:
        """As `Tracker.end`."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


_MADE: Final[Mapping[str, Callable[[str, str, Mapping[str, str]], Tracker]]] = {"mlflow": _MLflow, "trackio": _Trackio}


def check_tracker(name: str) -> None:
    """Raise ConfigError unless there is such a tracker, and it is installed: asked before anything trains."""
    if name not in TRACKERS:
        raise ConfigError("no such tracker", found=repr(name), expected=" or ".join(TRACKERS))
    _imported(name)


def opened(name: str, *, project: str, run: str, settings: Mapping[str, str]) -> Tracker:
    """A tracker that has begun a run.

    Args:
        project: what the tracker groups runs by: the job's name.
        settings: public ones, as texts.

    Raises:
        ConfigError: there is no such tracker, or it is not installed.
    """
    check_tracker(name)
    return _MADE[name](project, run, settings)


def send(lines: Iterable[Mapping[str, Any]], tracker: Tracker) -> int:
    """Tell a tracker of lines of metrics; the last one's round, or 0."""
    last = 0
    for line in lines:
        last = int(line["round"])
        tracker.log(figures_of(line), last)
    return last


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics."""
    found = {key: value for key, value in line.items() if key not in _NO_FIGURES}
    return {key: float(value) for key, value in found.items() if type(value) in (int, float) and math.isfinite(value)}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"{name} is not installed",
            remedy="pip install 'yoriai[track]', or leave the tracker out: metrics.jsonl stays",
        ) from None
