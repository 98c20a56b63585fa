"""What a job asks of a site, on the terminal, before its operator decides: all that bears on privacy."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.cli.own_ledger import opened
from yoriai.client.cli.room import Room
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.job_entry import Entry, Terms
from yoriai.client.offer.joining import joining
from yoriai.client.offer.usual import USUAL, unusual
from yoriai.client.records.columns import Reading
from yoriai.client.records.encoding import DEFAULT_TEMPLATES
from yoriai.client.records.fitting import fit_at_sight
from yoriai.client.records.records import read_site
from yoriai.config import JobConfig
from yoriai.errors import RecordError
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.privacy.dp.wording import terms as wording

_SHOWN = 32  # Of a list; of labels as many as are usual, for it is a list of them that could look for records.
_SHOWN_LABELS = int(USUAL["labels"].most)


@dataclass(frozen=True)
class Budget:
    """A data set's budget as it is now, in epsilon at `delta`.

    Attributes:
        left: neither spent nor promised.
    """

    dataset: str
    epsilon_budget: float
    delta: float
    unit: str
    left: float


def budget_of(site: SiteFolder) -> Budget:
    """The budget that jobs at this site draw on; the policy's, whole, before the ledger was made.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    config = site.config()
    dataset, policy = config.records.dataset, config.policy
    with opened(site) as ledger:
        if ledger is None:
            return Budget(dataset, policy.epsilon_budget, policy.delta, policy.unit, policy.epsilon_budget)
        in_force = ledger.policies()[-1].policy
        left = max(0.0, in_force.epsilon_budget - ledger.promised())
    return Budget(dataset, in_force.epsilon_budget, in_force.delta, in_force.unit, left)


@dataclass(frozen=True)
class Row:
    """One row of a job's terms.

    Attributes:
        name: what it is about.
        text: what the job asks for.
        unusual: what of it is out of the usual, in words (`client.offer.usual`).
    """

    name: str
    text: str
    unusual: tuple[str, ...] = ()


def records_here(site: SiteFolder, job: JobConfig) -> str:
    """How many of the site's training records a job could be taught by, for its operator alone."""
    config = site.config()
    try:
        reading = Reading.of(config.records)
        records = read_site(config.name, site.place(config.records.folder), reading).train
    except RecordError as error:
        return f"cannot be read: {error.what}"
    return fit_at_sight(records, job.task, job.privacy)


def print_terms(entry: Entry, budget: Budget, fit: str, console: Console, room: Room | None = None) -> None:
    """Print the terms of one job, what is unusual marked, and with `fit` how they go with the records of the site.

    Args:
        room: for jobs like this one, as long as it is not decided about.
    """
    rows = [*terms_rows(entry, budget, room), Row("records here", fit)]
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(row.name, Text(printable(row.text), overflow="fold"))
        for words in row.unusual:
            table.add_row("", Text(f"unusual: {printable(words)}", style="bold yellow", overflow="fold"))
    console.print(table, highlight=False)
    if count := sum(len(row.unusual) for row in rows):
        line = f"{count} {'settings are' if count > 1 else 'setting is'} unusual; ask the coordinator why"
        console.print(Text(line, style="bold yellow"))


def terms_rows(entry: Entry, budget: Budget, room: Room | None = None) -> list[Row]:
    """The terms by name, in the order in which they are read: all that bears on privacy."""
    terms, job = entry.terms, entry.terms.config()
    federation, privacy, task = job.federation, job.privacy, job.task
    odd, early = unusual(job, terms.noise_multiplier), early_end(entry)

    def row(name: str, text: str, *settings: str) -> Row:
        return Row(name, text, tuple(odd[setting] for setting in settings if setting in odd))

    rows = [
        row("run", terms.run_id),
        row("job", f"{job.name}: {task.kind}, {what_trains(job)}"),
        row("purpose", f"in the coordinator's words: {job.purpose}" if job.purpose else "the coordinator names none"),
        row("state", f"{entry.state}, first offered {day_of(entry.seen_at)}{_decided(entry)}{early and f'; {early}'}"),
        *([Row("declined", entry.reason)] if entry.reason else []),
        *([row("joins", joining(entry, time.time()).text)] if entry.state == "waiting" else []),
        row("privacy", _privacy(terms, job), "privacy.noise", "privacy.epsilon", "privacy.delta"),
        row("noise", _noise(terms, job), "noise_multiplier"),
        row(
            "budget",
            f"epsilon {epsilon_text(budget.left)} of {budget.epsilon_budget:g} is left at delta {budget.delta:g}",
        ),
        *([Row("further jobs", room.text, (room.objection,) if room.objection else ())] if room else []),
        row("clipping", _clipping(job), "privacy.clip_norm"),
        row("drawing", _drawing(job), "training.sampling_rate", "training.local_steps"),
        row(
            "rounds",
            f"{federation.rounds}, and {privacy.spare_rounds} spare, each of which can be charged",
            "federation.rounds",
            "privacy.spare_rounds",
        ),
        row("learning", _learning(job), "training.learning_rate", "federation.server_learning_rate"),
        row("head", _head(job)) if job.trains_head else row("adapter", _adapter(job), "lora.rank", "lora.alpha"),
        row("lengths", _lengths(job), "task.max_tokens"),
    ]
    if task.kind == "classify":
        rows.append(row("labels", f"{len(task.labels)}: {_listed(task.labels, _SHOWN_LABELS)}", "labels"))
    if task.kind in DEFAULT_TEMPLATES:
        template = repr(task.template or DEFAULT_TEMPLATES[task.kind])
        rows.append(row("template", template + ("" if task.template else ", the default")))
    secure = job.secure_aggregation.enabled
    how = "masked: only their sum opens" if secure else "in the clear: the coordinator reads this site's"
    sites = sorted(terms.weights)
    who = f"{len(sites)} in roster {terms.roster_serial}, {federation.min_sites} needed: {_listed(sites)}"
    return [
        *rows,
        row("updates", how, "secure_aggregation.enabled"),
        row("sites", who),
        row("base", f"{job.base.model}, digest {terms.base_digest}"),
    ]


def printable(text: str) -> str:
    """Text as it may stand on a terminal: names and texts of a job are the coordinator's choice."""
    return "".join(c if c.isprintable() else " " for c in text)


def day_of(at: float) -> str:
    """A time in words."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def early_end(entry: Entry) -> str:
    """That a run ended early, by its coordinator's signed word; empty if it did not, or has not ended."""
    rounds = entry.terms.config().federation.rounds
    if entry.rounds_done is None or entry.rounds_done == rounds:
        return ""
    return f"ended early after {entry.rounds_done} of {rounds} rounds"


def _decided(entry: Entry) -> str:
    return f"; decided {day_of(entry.decided_at)} by {entry.decided_by}" if entry.decided_at is not None else ""


def _privacy(terms: Terms, job: JobConfig) -> str:
    if terms.epsilon is None:
        return "none: without noise, what single records say can be read from updates"
    privacy = job.privacy
    cost = f"epsilon {epsilon_text(terms.epsilon)} at delta {privacy.delta:g} for all rounds, the spare ones too"
    cost += f", of {privacy.epsilon:g} that the job may cost"
    return f"{cost}; {wording(privacy.unit, terms.accountant)}"


def _clipping(job: JobConfig) -> str:
    privacy = job.privacy
    whose = "each record's gradient"
    if privacy.unit == "owner":
        most = privacy.records_per_owner
        whose = f"the summed gradient of each owner's {'records' if most is None else f'first {most} records'}"
    return f"{whose} to a norm of {privacy.clip_norm:g}" + (", without noise" if privacy.noise == "none" else "")


def _drawing(job: JobConfig) -> str:
    rate, steps = job.training.sampling_rate, job.training.local_steps
    how = f"each {job.privacy.unit} with probability {rate:g} in each of {steps} step{'s' * (steps > 1)} a round"
    return f"{how}; a weight of 1 stands for {job.training.records_per_weight} {job.privacy.unit}s"


def _learning(job: JobConfig) -> str:
    training, federation = job.training, job.federation
    here = f"{training.optimizer} at rate {training.learning_rate:g} here, {training.schedule}"
    here += f", pulled back by {training.proximal_mu:g}" * (training.proximal_mu > 0) + ", smoothed" * training.lowpass
    return f"{here}; {federation.server_optimizer} at rate {federation.server_learning_rate:g} at the coordinator"


def what_trains(job: JobConfig) -> str:
    """A head, or an adapter by its rule."""
    return "a head that trains" if job.trains_head else f"rule {job.federation.rule}"


def _head(job: JobConfig) -> str:
    head = job.head
    words = f" and {head.words} buckets of the prompt's words" if head.words else ""
    text = f"{len(job.task.labels)} labels on {head.directions} directions of {', '.join(head.states)}{words}"
    return text + _said_to_be_public(job)


def _adapter(job: JobConfig) -> str:
    lora = job.lora
    layers, maps = "all layers" if lora.layers == "all" else f"layers {lora.layers}", _listed(lora.target_modules)
    text = f"rank {lora.rank}, alpha {lora.alpha:g}, {layers}: {maps}"
    return text + "; fixed factors of public texts" * job.is_conditioned + _said_to_be_public(job)


def _said_to_be_public(job: JobConfig) -> str:
    texts = job.public.texts if job.is_conditioned else None
    return f"; conditioned on texts said to be public: {texts!r}" if texts else ""


def _lengths(job: JobConfig) -> str:
    longer = "cut" if job.task.too_long == "cut" else "left out"
    return f"records of up to {job.task.max_tokens} tokens; longer ones are {longer}"


def _listed(names: Sequence[str], most: int = _SHOWN) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _noise(terms: Terms, job: JobConfig) -> str:
    if terms.noise_multiplier is None:
        return job.privacy.noise
    text = f"{job.privacy.noise}, noise multiplier {terms.noise_multiplier:.4g}"
    if job.privacy.noise == "distributed":
        text += f"; it holds while at most {job.privacy.colluding} sites leave their share out or give it away"
    return text
