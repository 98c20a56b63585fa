"""The jobs of a site in one table, within 80 columns, or as JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.cli.adapter.measured import sentence
from yoriai.client.cli.jobs_terms import Budget, early_end, printable
from yoriai.client.cli.room import Room
from yoriai.client.offer.job_entry import Entry, Terms
from yoriai.client.offer.usual import unusual
from yoriai.client.versions.adapter_place import folder_of, read_evaluation
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.dp.wording import epsilon_text


@dataclass(frozen=True)
class JobView:
    """A job of the book, its last adapter if that is here, and what the site measured of it.

    Attributes:
        job: None for one that an earlier version took, and this one would not.
        room: for jobs like it, as long as it waits.
    """

    entry: Entry
    job: JobConfig | None
    folder: Path | None = None
    evaluation: Mapping[str, Any] | None = None
    room: Room | None = None


def job_views(
    entries: Iterable[Entry], adapters: Path, room_for: Callable[[Terms], Room | None] = lambda _: None
) -> list[JobView]:
    """The entries with what lies in the folder of adapters, and the budget's room for those that wait.

    Raises:
        StorageError: an evaluation is damaged.
    """
    views = []
    for entry in entries:
        folder = folder_of(adapters, entry.run_id, entry.adapter_digest) if entry.adapter_digest else None
        evaluation, job = read_evaluation(folder) if folder else None, _job(entry)
        room = room_for(entry.terms) if entry.state == "waiting" and job else None
        views.append(JobView(entry, job, folder, evaluation, room))
    return views


def _job(entry: Entry) -> JobConfig | None:
    try:
        return entry.terms.config()
    except ConfigError:
        return None


def jobs_json(views: Sequence[JobView], budget: Budget) -> dict[str, Any]:
    """Plain values."""
    return {"schema": 1, "budget": asdict(budget), "jobs": [_as_json(view) for view in views]}


def print_jobs(views: Sequence[JobView], budget: Budget, console: Console) -> None:
    """Print the budget that is left, and a row a job."""
    left = f"epsilon {epsilon_text(budget.left)} of {budget.epsilon_budget:g} is left"
    console.print(f"data set {budget.dataset}: {left} at delta {budget.delta:g}", highlight=False, markup=False)
    if not views:
        console.print("no job was offered yet")
        return
    table = Table("run, job", box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.columns[0].overflow = "fold"
    for name in ("state", "rounds", "epsilon", "noise, rule", "sites", "base", "tests here"):
        table.add_column(name, justify="right" if name in ("rounds", "epsilon", "sites") else "left")
    for view in views:
        table.add_row(*(Text(printable(line) if "\n" not in line else line) for line in _cells(view)))
    console.print(table, highlight=False)
    for view in views:
        if view.entry.reason:
            line = f"run {view.entry.run_id}: this site declines it: {view.entry.reason}"
            console.print(Text(printable(line), style="bold yellow"), highlight=False)
        if view.job is None and view.entry.state == "declined":
            continue
        if view.job is None:
            line = f"run {view.entry.run_id}: of an earlier version, with settings that this one takes from no job"
            console.print(Text(printable(line), style="bold yellow"), highlight=False)
            continue
        if view.evaluation is not None:
            line = f"run {view.entry.run_id}: {sentence(view.evaluation)}"
            console.print(Text(printable(line), style="dim"), highlight=False)
        if early := early_end(view.entry):
            console.print(Text(printable(f"run {view.entry.run_id} {early}"), style="dim"), highlight=False)
        if view.room is not None:
            line = f"run {view.entry.run_id} waits: {view.room.text}"
            style = "bold yellow" if view.room.objection else "dim"
            console.print(Text(printable(line), style=style), highlight=False)
        if odd := unusual(view.job, view.entry.terms.noise_multiplier):
            line = f"run {view.entry.run_id}: unusual: {', '.join(odd)}"
            console.print(Text(printable(line), style="bold yellow"), highlight=False)


def _cells(view: JobView) -> list[str]:
    terms, job = view.entry.terms, view.job
    return [
        f"{printable(terms.run_id)}\n{printable(job.name if job else '')}",
        view.entry.state,
        f"{job.federation.rounds}" if job else "?",
        epsilon_text(terms.epsilon),
        f"{job.privacy.noise}\n{printable(job.trained_by)}" if job else "?",
        f"{len(terms.weights)}",
        terms.base_digest[:8],
        _measured(view.evaluation),
    ]


def _measured(evaluation: Mapping[str, Any] | None) -> str:
    """Before and after, by the score that the task has; of answers also how near they come."""
    if evaluation is None:
        return ""
    of_answers = (("accuracy", "right"), ("token_f1", "F1"), ("chrf", "chrF"))
    lines = [line for score, name in of_answers for line in _before_and_after(evaluation, score, name)]
    lines = lines or _before_and_after(evaluation, "bits_per_byte", "bits/B")
    return "\n".join(lines or _before_and_after(evaluation, "loss", "loss"))


def _before_and_after(evaluation: Mapping[str, Any], score: str, name: str) -> list[str]:
    """Two lines, or none where the score is not there."""
    values = [evaluation[when].get(score) for when in ("before", "after")]
    if None in values:
        return []
    old, new = (f"{value:.0%}" if score == "accuracy" else f"{value:.3g}" for value in values)
    return [f"{name} {old}", f"→ {new}"]


def _as_json(view: JobView) -> dict[str, Any]:
    """The terms, and what a job sets; the latter is missing where the job is of an earlier version."""
    entry, terms = view.entry, view.entry.terms
    return {
        "run_id": terms.run_id,
        "state": entry.state,
        "seen_at": entry.seen_at,
        "decided_at": entry.decided_at,
        "decided_by": entry.decided_by,
        "declined_because": entry.reason or None,
        "rounds_done": entry.rounds_done,
        "epsilon": terms.epsilon,
        "adjacency": "add_or_remove_one",
        "accountant": terms.accountant or None,
        "noise_multiplier": terms.noise_multiplier,
        "sites": sorted(terms.weights),
        "roster_serial": terms.roster_serial,
        "base_digest": terms.base_digest,
        "job_digest": terms.job_digest,
        "adapter_digest": entry.adapter_digest or None,
        "adapter": str(view.folder) if view.folder else None,
        "evaluation": view.evaluation,
        "such_jobs_that_fit": view.room.fit if view.room else None,
        **(_settings(terms, view.job) if view.job else {}),
    }


def _settings(terms: Terms, job: JobConfig) -> dict[str, Any]:
    return {
        "job": job.name,
        "rounds": job.federation.rounds,
        "spare_rounds": job.privacy.spare_rounds,
        "delta": None if terms.epsilon is None else job.privacy.delta,
        "unit": job.privacy.unit,
        "noise": job.privacy.noise,
        "colluding": job.privacy.colluding if job.privacy.noise == "distributed" else None,
        "secure_aggregation": job.secure_aggregation.enabled,
        "min_sites": job.federation.min_sites,
        "rule": job.trained_by,
        "clip_norm": job.privacy.clip_norm,
        "sampling_rate": job.training.sampling_rate,
        "local_steps": job.training.local_steps,
        "learning_rate": job.training.learning_rate,
        "server_learning_rate": job.federation.server_learning_rate,
        "rank": job.lora.rank,
        "alpha": job.lora.alpha,
        "factors": job.lora.factors,
        "task": job.task.model_dump(mode="json"),
        "head": {**job.head.model_dump(mode="json"), "public_texts": job.public.texts} if job.trains_head else None,
        "unusual": unusual(job, terms.noise_multiplier),
        "base": job.base.model,
    }
