"""Commands of a job file: `job init`, `job schema`, `job check`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.errors import ConfigError
from yoriai.simulations.cli.options import of_deployment, overrides
from yoriai.simulations.cli.record_options import (
    DataPath,
    Encoding,
    Epsilon,
    Noise,
    Partition,
    PromptField,
    ResponseField,
    Rounds,
    RuleName,
    ScenarioName,
    Seed,
    Sites,
    TestFraction,
    refuse_two_sources,
)
from yoriai.terminal import say_while

_console = Console()


def job_init(
    path: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Where to write; must not exist.")] = Path(
        "job.toml"
    ),
    epsilon: Epsilon = None,
    noise: Noise = None,
    sites: Annotated[int | None, typer.Option("--sites", min=2, help="Sites that will be asked.")] = None,
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Training records of a site, on average, about.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this version, a file of `server export-version`.")
    ] = None,
) -> None:
    """Write a complete job file with every setting explained, or that of a version's job, which goes on from it."""
    from yoriai.config import job_template, job_to_toml, override

    settings = overrides(rule=None, epsilon=epsilon, rounds=None, noise=noise) | of_deployment(noise, sites, records)
    if start is None:
        text = job_template(settings)
    else:
        from yoriai.client.session.continuing import job_from, read_start
        from yoriai.system.files import read_carried

        version = read_start(read_carried(start, "the version", at_most_mib=2048))
        text = job_to_toml(override(job_from(version), settings))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists", remedy="name another file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written", found=error.strerror or "", remedy="name another file") from None
    _console.print(f"wrote {path}; check it with: yoriai job check {path}", highlight=False, markup=False)


def job_schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    import json

    from yoriai.config import job_json_schema

    typer.echo(json.dumps(job_json_schema(), indent=2))


def job_check(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml")],
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
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Load the base and time a step, whatever an earlier check left in the cache."),
    ] = False,
) -> None:
    """Check all of a job without training: settings, records, noise, epsilon per site, bytes per round."""
    from yoriai.config import load_job

    loaded = load_job(job)
    refuse_two_sources(scenario, data)
    with say_while("loading libraries"):
        from yoriai.simulations.check.job_check import check, print_check
        from yoriai.simulations.experiment.experiment import DataSource
        from yoriai.simulations.experiment.observers import screen
        from yoriai.simulations.scenarios import DEFAULT

    ready = scenario or DEFAULT
    source = DataSource(data, sites, partition, prompt_field, response_field, seed, ready, encoding, test_fraction)
    settings = overrides(rule=rule, epsilon=epsilon, rounds=rounds, noise=noise)
    with screen(_console) as observer:
        found = check(loaded, source, settings, observer, keep=True, anew=anew)
    print_check(found, _console)
