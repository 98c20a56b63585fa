"""The command `yoriai audit`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yoriai.privacy.dp.wording import epsilon_text
from yoriai.simulations.cli.options import overrides
from yoriai.terminal import say_while

# The audit found a bound above the ledger's epsilon, too little noise, or a control that it cannot tell from nothing.
EXIT_REFUTED = 1


def audit(
    job: Annotated[Path | None, typer.Option("--job", help="Job file; default: the scenario's job.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder with a folder a site, for its records.")] = None,
    canaries: Annotated[int, typer.Option("--canaries", min=8, help="Gradients put in or left out.")] = 5000,
    records: Annotated[
        int, typer.Option("--records", min=0, help="Records of the black-box part, at most; 0 leaves it out.")
    ] = 400,
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", help="Claim of the whole job; default: the job's.")
    ] = None,
    noise: Annotated[str | None, typer.Option("--noise", help="local or distributed; default: the job's.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Another base model; tiny takes random weights, for quick checks.")
    ] = None,
    hostile: Annotated[
        bool, typer.Option("--hostile", help="Canaries at settings and factors that a hostile job would choose.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack the training and hold what the attacks prove against the epsilon of the ledger.

    Exits with 1 if the claim is refuted or the control fails. One run proves a lower bound; it never proves privacy.
    """
    console = Console(stderr=as_json)
    with say_while("loading libraries"):
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.config import load_job
        from yoriai.simulations.audit.attack import check_claim
        from yoriai.simulations.audit.canary_audit import TINY, TINY_SETTINGS, AuditPlan, base_for
        from yoriai.simulations.audit.canary_audit import audit as run
        from yoriai.simulations.experiment.experiment import DataSource, resolve
        from yoriai.simulations.experiment.observers import screen

    settings = overrides(rule=None, epsilon=epsilon, rounds=None, noise=noise)
    if base is not None:
        settings |= TINY_SETTINGS if base == TINY else {"base.model": base}
    with quiet_libraries(), screen(console) as observer:
        experiment = resolve(load_job(job) if job else None, DataSource(path=data), settings)
        check_claim(experiment.job)
        asked = AuditPlan(canaries=canaries, records=records, hostile=hostile)
        found = run(experiment, base_for(experiment.job, observer), asked, observer)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_audit(found, console)
    if found["refuted"] or not found["control_holds"]:
        raise typer.Exit(EXIT_REFUTED)


def print_audit(found: dict[str, Any], console: Console) -> None:
    """The findings, in 80 columns."""
    settings, white, control = found["settings"], found["white_box"], found["control"]
    rounds, step, estimate = white["job_rounds"], white["full_step"], found["random_directions"]
    console.print(
        f"job {settings['job']}, base {settings['base']}, rule {settings['rule']}, {settings['noise']} noise: epsilon "
        f"{epsilon_text(found['epsilon_ledger'])} by the ledger, at delta {settings['delta']:g}, per "
        f"{settings['unit']}. Bounds at {found['confidence']:.0%} confidence each.",
        highlight=False,
        markup=False,
    )
    table = Table("attack", box=None, pad_edge=False)
    for heading in ("right", "guesses", "epsilon at least"):
        table.add_column(heading, justify="right")

    def row(name: str, part: dict[str, Any], epsilon: float, guesses: int) -> None:
        table.add_row(name, f"{part['correct']:,}", f"{guesses:,}", epsilon_text(epsilon))

    row("white-box, the job's rounds", rounds, rounds["epsilon_lower"], rounds["guesses"])
    row("  one full step", step, step["epsilon_lower"], step["guesses"])
    row("  both trainings together", white, white["epsilon_lower"], white["guesses"])
    for name, probe in rounds["probes"].items():
        row(f"probe: {name.replace('_', ' ')}", probe, probe["epsilon_lower"], probe["guesses"])
    row("control: noise off, clip on", control, control["epsilon_lower_white_box"], control["guesses"])
    if black := found.get("black_box"):
        bare = black["without_privacy"]
        row("black-box, wrong labels", black, black["epsilon_lower"], black["guesses"])
        row("  without privacy", bare, bare["epsilon_lower"], black["guesses"])
    console.print(table)
    lines = [
        f"noise multiplier {rounds['noise_multiplier']:.3f} claimed, {rounds['noise_multiplier_measured']:.3f} seen, "
        f"correlation between rounds at most {rounds['noise_correlation']:.3f}",
        f"epsilon {epsilon_text(estimate['epsilon_estimate'])} estimated from {estimate['directions']} random "
        "directions: no bound",
    ]
    for name, part in found.get("membership", {}).items():
        lines.append(
            f"membership {name.replace('_', ' ')}: AUC {part['auc']:.3f}, {part['tpr_at_1pct_fpr']:.1%} found at 1 % "
            "false alarms"
        )
    lines.append(f"{found['seconds']:.0f} s")
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if found["refuted"]:
        console.print("The claim is REFUTED: there is a fault in the implementation.", style="bold red")
    elif not found["control_holds"]:
        console.print("The control fails: this audit would not have seen a fault.", style="bold red")
    else:
        console.print("Nothing refutes the claim, and the control shows that a fault would be seen.", style="green")
