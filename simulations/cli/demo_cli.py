"""`yoriai demo`: what training together is worth, on the machines of a mine or on records of one's own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.terminal import say, say_while

_console = Console()


def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Records with labels: a folder with a folder a site, or one file for --sites."),
    ] = None,
    sites: Annotated[int | None, typer.Option("--sites", min=1, help="Split one file over this many sites.")] = None,
    epsilon: Annotated[
        list[float] | None, typer.Option("--epsilon", help="An epsilon to try; may be given several times.")
    ] = None,
    splits: Annotated[
        int, typer.Option("--splits", min=1, help="Splits into training and test records, all of them run.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs; what is finished in it is not run again.")
    ] = None,
) -> None:
    """Train together and alone at several epsilons, with either noise, and show it in one table and one figure."""
    # The libraries take seconds: a first line tells that it is at work.
    say(f"demo     alone and together, on the records of {data or 'five machines of a mine'}")
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.simulations.experiment.experiment import DataSource
        from yoriai.simulations.experiment.observers import screen
        from yoriai.simulations.report.sweep_figure import draw_sweep, sweep_table
        from yoriai.simulations.report.table import print_report
        from yoriai.simulations.run import api, sweep
        from yoriai.system.run_files import write_run_file

    folder, epsilons = out or api.new_folder("demo"), tuple(epsilon or sweep.EPSILONS)
    with quiet_libraries(), screen(_console) as observer:
        found = sweep.sweep(DataSource(path=data, sites=sites), epsilons, folder, observer, splits=splits)
    figure = folder / sweep.SWEEP_FIGURE
    write_run_file(figure, draw_sweep(found.title, found.epsilons, found.rows, found.yardsticks))
    first = sweep.run_folder_of(folder, "distributed", epsilons[0])
    print_report(found.main, _console, api.run_files(first))
    _console.print()
    _console.print(sweep_table(found.epsilons, found.rows, found.yardsticks))
    over = f" of the mean over {splits} splits" if splits > 1 else ""
    _console.print(
        f"delta {found.delta:g}; ± is half of a 95 % interval{over}; noise shared: distributed, in the secure sum",
        style="dim",
        highlight=False,
    )
    _console.print(f"{figure}\nuse it: yoriai.load({str(first / 'adapter')!r}).predict([...])", highlight=False)
