"""`yoriai poc DIR|FILE`: whether it is worth going on, from one site's own records."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.errors import ConfigError
from yoriai.terminal import say_while

_console = Console()


def poc(
    records: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR|FILE]", help="One site's folder with train and test, or one file of records."),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="The shipped work orders of one machine instead.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for poc.html and poc.json.")] = Path("poc"),
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=1e-6, help="Privacy of the private trials, for each record.")
    ] = 8.0,
    prompt_field: Annotated[
        str, typer.Option("--prompt-field", show_default=False, help="Key or column of the text.")
    ] = "",
    response_field: Annotated[
        str, typer.Option("--response-field", show_default=False, help="Key or column of the label.")
    ] = "",
    encoding: Annotated[str, typer.Option("--encoding", show_default=False, help="Of the files, such as cp932.")] = "",
) -> None:
    """Look at one site's records, try them alone and as a federation, with and without privacy, and answer on one page.

    Up to 500 training and 200 test records are tried; nothing leaves this machine, and no text stands in the answer.
    """
    if (records is None) != example:
        raise ConfigError("poc looks at one site's records", remedy="name DIR or FILE, or --example")
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.client.records.columns import Reading
        from yoriai.simulations.experiment.observers import screen
        from yoriai.simulations.poc.proof import example_site, prove, prove_site, write

    with quiet_libraries(), screen(_console) as observer:
        if records is None:
            proof = prove_site(example_site(), observer, epsilon=epsilon)
        else:
            proof = prove(records, observer, epsilon=epsilon, reading=Reading(encoding, prompt_field, response_field))
        files = write(proof, out)
    answer = proof.answer
    _console.print(answer.headline, style="bold", highlight=False)
    for line in (*answer.reasons, answer.joining, answer.missing):
        _console.print(f"- {line}", highlight=False, markup=False)
    for path in files:
        _console.print(str(path), highlight=False, markup=False)
