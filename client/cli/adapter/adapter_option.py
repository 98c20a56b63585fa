"""The option `--adapter` of commands that take any adapter that the site has."""

from typing import Annotated

import typer

Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="A channel, or how the name of a delivered adapter begins; default: production, else the last one.",
    ),
]
