"""`yoriai bench edge | bases | serve | redact`: adapters at work, on a device and behind an endpoint."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yoriai.errors import ServerError
from yoriai.simulations.cli.bench.output import documented, show
from yoriai.terminal import say, say_while


def mount(bench: typer.Typer) -> None:
    """Add the commands to `yoriai bench`."""
    for command in (edge, bases, serve, redact):
        bench.command()(command)


def edge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of an adapter.")],
    data: Annotated[
        str, typer.Option("--data", help="Scenario whose test records are asked, a language a site.")
    ] = "commands",
    records: Annotated[int, typer.Option(min=0, help="Test records of each language, at most.")] = 20,
    texts: Annotated[int, typer.Option(min=1, help="Texts of each language whose bits are counted.")] = 6,
    answers: Annotated[int, typer.Option(min=1, help="Timed answers of each language.")] = 5,
    quantisation: Annotated[
        list[str] | None,
        typer.Option(
            "--quantisation", help="own (the base's file as it came), f16 or q8_0; several times; default: all."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of llama.cpp; more only on a machine without other work.")] = 1,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was trained.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """An adapter beside its base in llama.cpp on this machine: scores and bits by language, time, memory, energy.

    It needs Yoriai's extra `edge`.
    """
    from yoriai.client.edge.adapter_folder import find_folder
    from yoriai.simulations.bench.edge import table as tables
    from yoriai.simulations.bench.edge.run import QUANTISATIONS, EdgePlan, bench_edge, languages_of

    asked = EdgePlan(
        adapter=find_folder(run),
        languages=languages_of(data, records, texts),
        quantisations=tuple(quantisation or QUANTISATIONS),
        threads=threads,
        answers=answers,
        base=base,
        say=lambda line: typer.echo(line, err=True),
    )
    with say_while("measuring with llama.cpp"):
        found = bench_edge(asked)
    document = documented(found, json_file)
    show(tables.machine_rows(document), tables.language_rows(document), lines=[tables.NOT_COVERED])


def bases(
    names: Annotated[
        list[str], typer.Argument(metavar="BASE...", help="Two bases or more, from the smallest to the largest.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="excavators, commands, findings, or a folder of sites; several times."),
    ] = None,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="JOB.toml", help="In place of the tasks' own; its base is left out.")
    ] = None,
    epsilon: Annotated[str | None, typer.Option("--epsilon", help="Of each training: a number or none.")] = None,
    noise: Annotated[str | None, typer.Option("--noise", help="local, or distributed.")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="What trains, in place of the job's.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each training, in place of the job's.")] = None,
    records: Annotated[int, typer.Option(min=10, help="Training and test records of a site, at most.")] = 1_000_000,
    answers: Annotated[int, typer.Option(min=1, help="Answers whose time is taken.")] = 50,
    core_hour: Annotated[float, typer.Option(min=0.0, help="Price of a core for an hour, for the cost.")] = 0.0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """Which task gains from a larger base: the same jobs on several, scores, what rounding and distilling keep, costs.

    Every training looks at the records again and no ledger is charged: it is for public records.
    """
    from yoriai.config import load_job
    from yoriai.simulations.bench.bases import table as tables
    from yoriai.simulations.bench.bases.run import BasesPlan, bench_bases
    from yoriai.simulations.bench.bases.tasks import task_of
    from yoriai.simulations.cli.options import overrides

    asked = BasesPlan(
        bases=tuple(names),
        tasks=tuple(task_of(one, records, load_job(job) if job else None) for one in (data or ["excavators"])),
        settings=overrides(rule=rule, epsilon=epsilon, rounds=rounds, noise=noise),
        answers=answers,
        core_hour=core_hour,
        say=lambda line: typer.echo(line, err=True),
    )
    with say_while("training on each base"):
        found = bench_bases(asked)
    document = documented(found, json_file)
    lines = [*tables.advice_lines(document), tables.NOT_COVERED]
    parts = (tables.base_rows, tables.language_rows, tables.task_rows, tables.kept_rows, tables.site_rows)
    show(*(part(document) for part in parts), lines=lines)


def serve(
    url: Annotated[str, typer.Argument(help="The endpoint, such as http://127.0.0.1:8011/v1.")],
    key_file: Annotated[Path, typer.Option("--key-file", help="Its key: serve.key of the site.")],
    model: Annotated[str, typer.Option("--model", help="What is asked.")] = "production",
    clients: Annotated[int, typer.Option(min=1, max=256, help="Clients that ask at once.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long they begin requests.")] = 60.0,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """An endpoint of `yoriai site serve` under load: what is lost, and the times to the first piece and to the end.

    Ends with an error if a request was lost.
    """
    from yoriai.simulations.bench.serve import Load, bench_serve
    from yoriai.system.key_file import read_private

    key = read_private(key_file).decode().strip()
    with say_while(f"{clients} clients ask"):
        found = bench_serve(Load(url.rstrip("/"), key, model, clients, seconds, answer_tokens))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        table = Table("seconds", "p50", "p95", "longest", box=None, pad_edge=False)
        for key_, name in (("first_s", "to the first piece"), ("whole_s", "to the end")):
            table.add_row(name, *(f"{found[key_].get(q, float('nan')):.2f}" for q in ("p50", "p95", "max")))
        Console().print(table)
        say(f"{found['answered']} answered, {found['lost']} lost, {found['tokens_per_s']} tokens/s in all")
    if found["lost"] or not found["answered"]:
        raise ServerError(
            "requests were lost", found=", ".join(found["why"]) or "no answer", remedy="see the site's log"
        )


def redact(
    language: Annotated[
        list[str] | None, typer.Option("--language", help="Of the texts that are taken; several times; default: all.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Texts of your own, marked as simulations/bench/redact/texts.txt is.")
    ] = None,
    by_patterns: Annotated[bool, typer.Option("--patterns", help="Patterns alone, without Presidio.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How much of the names and numbers in marked texts redaction takes out before a text leaves a site."""
    from yoriai.client.routing.presidio import presidio
    from yoriai.client.routing.redaction import patterns
    from yoriai.simulations.bench.redact.run import measure, own, rows, shipped

    texts = own(file) if file is not None else shipped()
    found = {}
    with say_while("taking out names"):
        for one in dict.fromkeys(text.language for text in texts if not language or text.language in language):
            finders = [patterns()] if by_patterns else [patterns(), presidio((one,))]
            found[one] = measure([text for text in texts if text.language == one], finders)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    show(rows(found))
