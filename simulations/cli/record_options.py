"""Options of commands that read records: where they are, how they are split, and what is set anew in the job."""

from pathlib import Path
from typing import Annotated

import typer

from yoriai.errors import ConfigError

JobFile = Annotated[
    Path | None, typer.Argument(metavar="[JOB.toml]", help="Job file; none takes defaults for the data.")
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder with a folder a site, or one .jsonl, .json or .csv file to split with --sites."
    ),
]
ScenarioName = Annotated[
    str | None,
    typer.Option("--scenario", help="Ready records and job: excavators (the default), commands or findings."),
]
Sites = Annotated[int | None, typer.Option("--sites", min=1, help="Split one file over this many sites.")]
Partition = Annotated[
    str | None, typer.Option("--partition", help="How to split it: iid (the default), dirichlet:ALPHA or by:FIELD.")
]
PromptField = Annotated[
    str,
    typer.Option(
        "--prompt-field",
        show_default=False,
        help="Key or column of the prompt; of the text or the messages, where there is no response.",
    ),
]
ResponseField = Annotated[
    str, typer.Option("--response-field", show_default=False, help="Key or column of the response.")
]
Encoding = Annotated[
    str,
    typer.Option(
        "--encoding", show_default=False, help="Encoding of the records, such as cp932 or latin-1; default: UTF-8."
    ),
]
TestFraction = Annotated[
    float | None,
    typer.Option(
        "--test-fraction",
        help="Share of the records that only measure: of one file (default: 0.2), or at sites without a test file.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of partition and split of the records; never of noise.")]
Epsilon = Annotated[
    str | None,
    typer.Option(
        "--epsilon", help='Privacy of the whole job, for one record or owner added or removed: a number, or "none".'
    ),
]
Noise = Annotated[
    str | None,
    typer.Option(
        "--noise", help="local: each site adds all of it. distributed: the sites share it, in the secure sum."
    ),
]
RuleName = Annotated[str | None, typer.Option("--rule", help="Aggregation rule.")]
Samples = Annotated[
    bool,
    typer.Option(
        "--samples/--no-samples",
        help="Whether the report of an instruct task shows five test records with the answers before and after.",
    ),
]
Alone = Annotated[
    bool | None,
    typer.Option(
        "--alone/--no-alone",
        show_default=False,
        help="Whether each site is also trained alone; default: where a head trains, which costs seconds.",
    ),
]
Track = Annotated[
    str,
    typer.Option("--track", show_default=False, help="mlflow or trackio, of the extra `track`: tell it of each round."),
]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds in the job.")]
RayAddress = Annotated[
    str,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        show_default=False,
        help="A Ray cluster that is there, whose nodes play the sites; with --engine flower.",
    ),
]


def refuse_two_sources(scenario: str | None, data: Path | None) -> None:
    """--data beside the name of any scenario is refused, the default's too."""
    if scenario is not None and data is not None:
        raise ConfigError("--scenario and --data both name the records", remedy="leave one of them out")
