"""`yoriai job suggest`: a job file of settings that trials on public records speak for."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.errors import ConfigError
from yoriai.simulations.cli.options import overrides
from yoriai.terminal import say_while

_console = Console()


def suggest(
    out: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Where to write; must not exist.")] = Path("job.toml"),
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with a folder a site, or one file; only with --declared-public."),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="Ready public records: excavators (default).")
    ] = None,
    declared_public: Annotated[
        bool, typer.Option("--declared-public", help="Anybody may see the records of --data; nothing is charged.")
    ] = False,
    job: Annotated[
        Path | None, typer.Option("--job", help="Job file whose settings stay; only what it leaves open is tried.")
    ] = None,
    sites: Annotated[int | None, typer.Option("--sites", min=2, help="Split one file over this many sites.")] = None,
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", help="Of the whole job, for one record or owner added or removed.")
    ] = None,
    noise: Annotated[str | None, typer.Option("--noise", help="local or distributed.")] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="After the first trial, until none begins any more.")
    ] = 5.0,
) -> None:
    """Propose rank, layers, rounds, rate and how to split epsilon, each with the trials that speak for it.

    It searches, and charges nobody: so it takes shipped records, or those that are declared public.
    """
    from yoriai.simulations.scenarios import DEFAULT

    if scenario is not None and data is not None:
        raise ConfigError("--scenario and --data both name the records", remedy="leave one of them out")
    if out.exists():
        raise ConfigError(f"{out} exists", remedy="name another file")
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.config import load_job
        from yoriai.simulations.experiment.experiment import DataSource
        from yoriai.simulations.experiment.observers import screen
        from yoriai.simulations.suggest.job_file import job_file
        from yoriai.simulations.suggest.trials import suggest as tried
        from yoriai.system.files import write_atomically

    source = DataSource(path=data, sites=sites, scenario=scenario or DEFAULT)
    with quiet_libraries(), screen(_console) as observer:
        found = tried(
            source,
            observer,
            declared_public=declared_public,
            job=load_job(job) if job else None,
            settings=overrides(rule=None, epsilon=epsilon, rounds=None, noise=noise),
            minutes=minutes,
        )
    title = f"{found.best.data.title}, declared public" if data else f"the scenario {scenario or DEFAULT}"
    write_atomically(out, job_file(found, title).encode())
    _console.print(f"wrote {out}; check it with: yoriai job check {out}", highlight=False, markup=False)
