"""`yoriai bench simulate`: what a simulation costs by the number of sites and by engine."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yoriai.terminal import say_while


def simulate(
    sites: Annotated[int, typer.Option("--sites", min=3, max=2048, help="Sites of the federation.")] = 100,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of the job.")] = 5,
    records: Annotated[int, typer.Option("--records", min=1, help="Training records of each site.")] = 10,
    base: Annotated[str, typer.Option("--base", help="tiny (random, made-up records), or a base for work orders.")] = (
        "tiny"
    ),
    trains: Annotated[
        str, typer.Option("--trains", help="head, or core (an adapter in the last two layers).")
    ] = "head",
    secure: Annotated[bool, typer.Option(help="Sum the updates in secret, or send them in the clear.")] = True,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="inprocess, one-pass or flower; may be given several times; default: all."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that PyTorch computes with.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A simulation of so many sites by each engine: seconds, site-rounds a second, memory."""
    from yoriai.simulations.bench.simulate import SimulatePlan, bench_simulate
    from yoriai.simulations.engines.choice import ENGINES

    plan = SimulatePlan(sites, rounds, records, base, trains, secure, threads)
    with say_while("simulating") as now:
        found = bench_simulate(plan, engine or ENGINES, now)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(f"{sites} sites, {rounds} rounds", box=None, pad_edge=False)
    for heading in ("seconds", "site-rounds a second", "peak memory"):
        table.add_column(heading, justify="right")
    for name in ("in_process", "one_pass", "flower"):
        if (cost := found[name]) is not None:
            figures = (f"{cost['seconds']:.1f}", f"{cost['site_rounds_per_s']:.1f}", f"{cost['peak_memory_mb']:,} MB")
            table.add_row(name.replace("_", " "), *figures)
    Console().print(table)
