"""`yoriai bench`: measurements that anybody can repeat."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

bench = typer.Typer(help="Measure Yoriai on this machine.", no_args_is_help=True)


@bench.command()
def secagg(
    params: Annotated[int, typer.Option(min=1, help="Parameters of one update.")] = 10_000_000,
    sites: Annotated[int, typer.Option(min=3, help="Sites of the round.")] = 100,
    dropped: Annotated[int, typer.Option(min=0, help="Sites that drop out after masking keys are agreed.")] = 10,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours that the measured site masks with.")] = 10,
    bits: Annotated[int, typer.Option(min=2, max=32, help="Bits of one quantised value.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Secure aggregation beside Flower's own functions, in one process: bytes, site's and coordinator's seconds."""
    from yoriai.simulations.bench_secagg import bench_secagg

    found = bench_secagg(params, sites, dropped, neighbours, bits)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table("", "Yoriai", "Flower", "ratio", box=None, pad_edge=False)
    for key in ("upload_bytes_per_param", "site_seconds", "coordinator_seconds"):
        table.add_row(
            key.replace("_", " "), f"{found[key]:.3f}", f"{found['flower'][key]:.3f}", f"{found['ratio'][key]:.2f}"
        )
    Console().print(table)
