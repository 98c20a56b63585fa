"""`yoriai evaluate RUN`: what a finished run is worth, with an interval or a test behind each figure."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.terminal import say_while

_console = Console()


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Whether to load the base and time some answers.")
    ] = True,
    languages: Annotated[bool, typer.Option("--languages", help="Also in each language of the test records.")] = False,
    forgetting: Annotated[
        bool, typer.Option("--forgetting", help="Also what it costs on general texts in ten languages; a minute.")
    ] = False,
) -> None:
    """Compare a run's models on the same test records: intervals, exact tests, calibration, labels, latency, size."""
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.simulations.evaluation.document import document
        from yoriai.simulations.evaluation.evaluation import evaluate_run
        from yoriai.simulations.evaluation.table import print_evaluation

    with quiet_libraries():
        found = evaluate_run(run, with_latency=latency, with_languages=languages, with_forgetting=forgetting)
    if as_json:
        import json

        typer.echo(json.dumps(document(found), indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_evaluation(found, _console)
