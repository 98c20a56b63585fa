"""`yoriai bench`: measurements that anybody can repeat."""

import datetime
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yoriai.simulations.cli.bench import work_cli
from yoriai.simulations.cli.bench.output import command_line, documented, show
from yoriai.simulations.cli.bench.simulate_cli import simulate
from yoriai.terminal import say, say_while

bench = typer.Typer(help="Measure Yoriai on this machine.", no_args_is_help=True)
bench.command()(simulate)
work_cli.mount(bench)


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
    from yoriai.simulations.bench.secagg import bench_secagg

    with say_while("measuring secure aggregation"):
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


@bench.command()
def rules(
    data: Annotated[str, typer.Option("--data", help="excavators, commands or findings.")] = "excavators",
    epsilon: Annotated[
        list[str] | None,
        typer.Option("--epsilon", help="Of each training by itself: a number or none; may be given several times."),
    ] = None,
    rule: Annotated[list[str] | None, typer.Option("--rule", help="May be given several times; default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Splits that the final trainings are done on.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes, of one thread each.")] = 2,
    layers: Annotated[str, typer.Option(help="Layers with an adapter: all, or last:K.")] = "last:1",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each training.")] = 24,
    noise: Annotated[str, typer.Option("--noise", help="local, or distributed.")] = "local",
    sites: Annotated[
        int | None, typer.Option("--sites", min=2, help="Deal the records out to so many sites (Dirichlet 0.5).")
    ] = None,
    setting: Annotated[
        str | None, typer.Option("--setting", help="OPTIMIZER:RATE:CLIP for every training, in place of the search.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the measurements; an old one is gone on with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The rules, each tuned with the same effort on validation records, then measured on test records over splits.

    The search for settings looks at private records and is charged to nobody: epsilon covers one training, not the
    search. Whoever chooses settings on private records must charge every training that was tried.

    With the defaults some hundred trainings of half a minute; what is measured is kept, so it may be interrupted.
    """
    from yoriai.simulations.bench.rules import tables
    from yoriai.simulations.bench.rules.combining import combine_seconds
    from yoriai.simulations.bench.rules.plan import Scale, setting_of
    from yoriai.simulations.bench.rules.run import RulesPlan, run
    from yoriai.simulations.bench.rules.store import Store
    from yoriai.simulations.cli.options import epsilon_of, mode_of
    from yoriai.simulations.scenarios import get_scenario
    from yoriai.strategies.rule import get_rule, rule_names
    from yoriai.system.run_files import write_run_file

    get_scenario(data)
    shared = mode_of(noise) == "distributed"
    asked = RulesPlan(
        data=data,
        rules=tuple(get_rule(name).name for name in (rule or rule_names()) if rule or _goes(name, shared)),
        epsilons=tuple(epsilon_of(text) for text in (epsilon or ["8"])),
        seeds=seeds,
        scale=Scale(layers=layers, rounds=rounds, noise=noise, sites=sites),
        jobs=jobs,
        say=lambda line: typer.echo(line, err=True),
        setting=setting_of(setting) if setting else None,
    )
    folder = out or Path("runs") / f"bench-rules-{data}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    typer.echo(f"measurements in {folder}", err=True)
    with say_while("training"):
        found = run(asked, Store(folder / "trainings.jsonl"))
    document = tables.as_json(found, command_line(), combine_seconds())
    table = tables.rows(document["results"], document["trained_nothing"])
    write_run_file(folder / "rules.json", json.dumps(document, indent=1).encode())
    write_run_file(folder / "rules.md", f"{tables.markdown(table)}\n{tables.NOT_COVERED}\n".encode())
    if as_json:
        typer.echo(json.dumps(document, indent=1))
        return
    show(table, lines=[tables.NOT_COVERED])


@bench.command()
def deploy(
    sites: Annotated[int, typer.Option(min=2, help="Sites, each with a SuperNode of about 300 MB.")] = 4,
    params: Annotated[int, typer.Option(min=1, help="Trained parameters of the adapter, at least.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the job.")] = 3,
    noise: Annotated[str, typer.Option("--noise", help="local, or distributed.")] = "local",
    large: Annotated[bool, typer.Option("--large", help="50 million parameters: 200 MB in fp32.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to make the deployment and keep it, with its logs.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """A deployment on this machine, without training: nginx, SuperLink, SuperNodes, daemons, ledgers, masks are real.

    Up to four sites' daemons have a process each, more share one.
    """
    from yoriai.simulations.bench.deploy.plan import LARGE_PARAMS, DeployPlan
    from yoriai.simulations.bench.deploy.run import bench_deploy
    from yoriai.simulations.bench.deploy.table import rows
    from yoriai.simulations.cli.options import mode_of

    asked = DeployPlan(sites, LARGE_PARAMS if large else params, rounds, mode_of(noise))
    with TemporaryDirectory(prefix="yoriai-", ignore_cleanup_errors=True) as temporary:  # A process may end late.
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        with say_while("measuring a deployment"):
            found = bench_deploy(asked, place.resolve(), lambda line: typer.echo(line, err=True))
    document = documented(found, json_file)
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for what, figure in rows(document):
        table.add_row(what, figure)
    Console().print(table)


@bench.command()
def splits(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder of the records and their job.")],
) -> None:
    """The work orders dealt out the hard way: fifty sites, a label that one site has, sites that share none."""
    from yoriai.errors import ConfigError, StorageError
    from yoriai.simulations.bench.hard_splits import SPLITS, write_splits

    if folder.exists():
        raise ConfigError(f"{folder} exists", remedy="name a new folder")
    try:
        write_splits(folder)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written", found=error.strerror or "", remedy="name another folder"
        ) from error
    for split in SPLITS:
        typer.echo(f"yoriai simulate {folder / 'job.toml'} --data {folder / split} --noise distributed")


@bench.command()
def tuning(
    base: Annotated[str, typer.Option("--base", help="Base model to measure with.")] = "smollm2-135m-instruct",
    records: Annotated[int, typer.Option(min=1, help="Work orders of one step.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Steps that are timed, after one that is not.")] = 3,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="full, full_clipped, lora, core or head; may be given several times."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that PyTorch computes with.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One step of full fine-tuning beside LoRA, a core and a head: memory, seconds, parameters. Takes 4 GB."""
    from yoriai.simulations.bench.tuning import METHODS, bench_tuning

    with say_while("measuring a step") as now:
        found = bench_tuning(base, records, method or METHODS, repeats=repeats, threads=threads, say=now)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table("one step", box=None, pad_edge=False)
    for heading in ("trained", "prepared once", "a step", "of processor", "peak memory"):
        table.add_column(heading, justify="right")
    for one in found["methods"]:
        seconds = (f"{one[key]:.2f} s" for key in ("prepare_s", "step_s", "step_cpu_s"))
        name = one["method"].replace("_", ", ")
        table.add_row(name, f"{one['trained']:,}", *seconds, f"{one['peak_memory_mb']:,.0f} MB")
    Console().print(table)


@bench.command()
def dpsgd(
    base: Annotated[
        str, typer.Option("--base", help="Base model, or one with random weights: random-llama-1b, random-llama-8b.")
    ] = "smollm2-135m-instruct",
    adapter: Annotated[str, typer.Option("--adapter", help="lora or core.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 8,
    maps: Annotated[str, typer.Option("--maps", help="Names of the adapted linear maps.")] = (
        "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    ),
    layers: Annotated[str, typer.Option("--layers", help="all, or last:K.")] = "last:8",
    batch: Annotated[int, typer.Option(min=1, help="Records of a step.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a record.")] = 24,
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads that PyTorch computes with.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Steps that are timed, after two that are not.")] = 7,
    way: Annotated[
        list[str] | None,
        typer.Option("--way", help="plain, plain_strict, opacus, opacus_ghost or yoriai; several times; default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What each record's own clipped gradient costs a step: plain, Opacus' two ways, Yoriai's; seconds and memory."""
    from yoriai.simulations.bench.dpsgd import WAYS, DpsgdPlan, bench_dpsgd

    names = tuple(name.strip() for name in maps.split(","))
    plan = DpsgdPlan(base, adapter, rank, names, layers, batch, length, device, threads, repeats)
    with say_while("measuring a step") as now:
        found = bench_dpsgd(plan, way or WAYS, now)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(f"{batch} x {length}", box=None, pad_edge=False)
    for heading in ("a step", "ratio", "of processor", "tokens/s", "peak memory", "ratio"):
        table.add_column(heading, justify="right")
    for name, one in found["ways"].items():
        ratios = {key: f"{value:.2f}" for key, value in found["ratios"].get(name, {}).items()}
        table.add_row(
            name.replace("_", ", "),
            f"{one['step_s']:.3f} s",
            ratios.get("step_s", ""),
            f"{one['step_cpu_s']:.3f} s",
            f"{one['tokens_per_s']:,.0f}",
            f"{one['peak_memory_mb']:,.0f} MB",
            ratios.get("peak_memory_mb", ""),
        )
    Console().print(table)
    if noise := sum(one["noise_s"] for one in found["ways"].values()):
        say(f"the noise of one release: {noise:.3f} s on top")


def _goes(rule: str, shared: bool) -> bool:
    """Whether a rule can do with the sum that distributed noise leaves."""
    from yoriai.strategies.rule import get_rule

    return not shared or get_rule(rule).sum_suffices
