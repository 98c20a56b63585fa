"""The `yoriai` command. Heavy libraries load only in the sub-command that needs them."""

import io
import sys
from functools import cache
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.text import Text

from yoriai import federation_cli, job_cli
from yoriai.client.cli import site_cli as site
from yoriai.client.console import console_cli as site_console
from yoriai.errors import EXIT_INTERRUPTED, YoriaiError
from yoriai.server.cli import server_cli as server
from yoriai.server.console import console_cli as server_console
from yoriai.simulations.cli import simulate_cli as simulations
from yoriai.system.files import cannot_write, is_unwritable

app = typer.Typer(
    name="yoriai",
    help="Sites adapt one base language model together, with differential privacy, without showing a record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_job = typer.Typer(help="Write and check jobs, and have a server run them.", no_args_is_help=True)
app.add_typer(_job, name="job")
_federation = typer.Typer(help="Run a consortium's CA, off the network.", no_args_is_help=True)
app.add_typer(_federation, name="federation")
simulations.mount(app, _job, _federation)
job_cli.mount(_job)
site_console.mount(site.mount(app))
server_console.mount(server.mount(app))
federation_cli.mount(_federation)


def _show_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def version() -> None:
    """Print the version."""
    import yoriai

    typer.echo(yoriai.__version__)


@cache
def command() -> click.Command:
    """The command with all that is under it; to build them takes longer than most commands, so it is done once."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command; an error of Yoriai's own becomes its message and its exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # What a terminal cannot show is no reason to end a run without its report.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console(stderr=True)
    try:
        command()()
    except YoriaiError as error:
        # The message is text, not markup: it may name [tables] of a file.
        console.print(Text.assemble(("error: ", "bold red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not is_unwritable(error):
            raise  # A fault of the code, whose place has to be seen.
        fault = cannot_write(error.filename or "standard output", error)
        console.print(Text.assemble(("error: ", "bold red"), str(fault)), highlight=False, soft_wrap=True)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        console.print("interrupted", highlight=False)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
