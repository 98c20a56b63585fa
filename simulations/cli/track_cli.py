"""`yoriai track`: the figures of a run, or of a server's job, into a tracker."""

from pathlib import Path
from typing import Annotated

import typer

from yoriai.terminal import say


def track_run(
    metrics: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="Folder of a run or of a server's job, or its metrics.jsonl.")
    ],
    to: Annotated[str, typer.Option("--to", help="mlflow or trackio, of the extra `track`.")],
    project: Annotated[str, typer.Option("--project", help="What the tracker groups runs by.")] = "yoriai",
) -> None:
    """Tell a tracker of all rounds in a file of metrics, as one run. Where it keeps them is its own setting."""
    from yoriai.server.round.metric_lines import METRICS_FILE, read_lines
    from yoriai.system.trackers import check_tracker, opened, send

    check_tracker(to)
    lines = read_lines(metrics / METRICS_FILE if metrics.is_dir() else metrics)
    settings = {"epsilon_is": lines[-1]["epsilon_is"]} if "epsilon_is" in lines[-1] else {}
    tracker = opened(to, project=project, run=str(lines[-1]["run"]), settings=settings)
    rounds = send(lines, tracker)
    tracker.end()
    say(f"told {to} of {rounds} rounds of {lines[-1]['run']}")
