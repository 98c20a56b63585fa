"""A suggestion as a job file: what was settled, and each proposal under a comment that says what speaks for it."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import tomli_w

from yoriai.config.by_task import BY_TASK
from yoriai.privacy.dp.wording import epsilon_text, terms
from yoriai.simulations.report.report import Change
from yoriai.simulations.suggest.trials import OWN_ROUNDS, Proposal, Split, Suggestion

_COLUMNS: Final = 90
_RATES: Final = ("federation.server_learning_rate", "federation.server_learning_rate_without_noise")
_HEAD_SAID: Final = (
    "A head trains: seconds where an adapter takes minutes, and more accurate under privacy on the records of "
    "docs/benchmarks/heads.md. Not tried here."
)
_HYBRID_SAID: Final = "Dense layers beside low-rank ones are refused: docs/decisions/0038-papers-and-suggestions.md."


def job_file(found: Suggestion, records: str) -> str:
    """The text of the file; `parse_job` reads it.

    Args:
        records: what the trials were made on, in words: a scenario's title, or the name of a folder.
    """
    tables: dict[str, dict[str, Any]] = {}
    for key, value in _settled(found).items():
        table, _, setting = key.rpartition(".")
        tables.setdefault(table, {})[setting] = value
    lines = list(_comment(_beginning(found, records)))
    proposals = {proposal.key: proposal for proposal in found.proposals}
    names = dict.fromkeys((*tables, *(key.rpartition(".")[0] for key in proposals)))
    for table in names:
        lines += ["", f"[{table}]"] if table else []
        for setting, value in tables.get(table, {}).items():
            lines += [*_comment(_why(found, f"{table}.{setting}".lstrip("."))), _line(setting, value)]
        for key in (key for key in proposals if key.rpartition(".")[0] == table):
            lines += [*_comment(_evidence(found, proposals[key])), _proposed(proposals[key])]
    return "\n".join(lines) + "\n"


def _settled(found: Suggestion) -> dict[str, Any]:
    """What the job names beside the proposals."""
    named: dict[str, Any] = {"schema": 1, "name": found.job.name}
    document = found.job.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    for table, values in document.items():
        if isinstance(values, Mapping):
            named |= {f"{table}.{setting}": value for setting, value in values.items() if value is not None}
    if found.split is not None:
        named["privacy.epsilon"] = found.split.shared
        if found.split.own:
            named |= {"personal.epsilon": found.split.own, "personal.rounds": OWN_ROUNDS}
    tried = {proposal.key for proposal in found.proposals}
    return {key: value for key, value in named.items() if key not in tried}


def _beginning(found: Suggestion, records: str) -> str:
    sites = f"{found.sites} sites"
    return (
        f"Suggested by `yoriai job suggest` from public records: {records}; {found.train} for training and "
        f"{found.validation} held out at {sites}, {found.seconds / 60:.0f} minutes of trials, one draw of noise each. "
        f"With all of it: {found.measure.replace('_', ' ')} {_score(found)}. Real records differ: a suggestion, and no "
        "promise. Give the job a name and a purpose, and check it: yoriai job check."
    )


def _score(found: Suggestion) -> str:
    score = found.best.overall["federated"]
    value = getattr(score, found.measure)
    interval = "" if score.interval is None else f" [{score.interval[0]:.2f}, {score.interval[1]:.2f}]"
    return f"{value:.3f}{interval}" if value is not None else "was not measured"


def _why(found: Suggestion, key: str) -> str:
    """What is said above a setting that was not tried; mostly nothing."""
    if key == "privacy.epsilon":
        return _split_said(found)
    task = found.best.job["task"]
    return _HEAD_SAID if key == "task.kind" and isinstance(task, dict) and task["head"] == "trained" else ""


def _split_said(found: Suggestion) -> str:
    privacy = found.best.privacy
    if privacy.noise == "none":
        return ""
    told = (
        f"In the last trial a site spent {epsilon_text(found.best.epsilon_spent)} at most, "
        f"{terms(privacy.unit, privacy.accountant)}."
    )
    if found.split is None:
        return f"{told} An adapter of each site's own was not tried."
    return f"{told} {_own_said(found.split, found.measure)}"


def _own_said(split: Split, measure: str) -> str:
    change = f"{measure.replace('_', ' ')} {_change(split.change)}"
    if split.own:
        return f"A quarter of it for each site's own adapter: {change}, which is better beyond chance."
    return f"All for the shared training: a quarter of it for each site's own adapter was not better ({change})."


def _evidence(found: Suggestion, proposal: Proposal) -> str:
    """What was tried in its place, and what that changed."""
    tried = "; ".join(f"{_value(one.value)}: {_change(one.change)}" for one in proposal.tried)
    measure, better = found.measure.replace("_", " "), "less" if found.measure == "bits_per_byte" else "more"
    parts = []
    if tried:
        parts.append(f"{measure} ({better} is better) against the value before, 95 % interval: {tried}.")
    if proposal.left_out:
        parts.append(f"No time for {', '.join(map(_value, proposal.left_out))}.")
    if not proposal.is_default:
        parts.append("Better beyond chance than what the task takes by itself.")
    elif tried:
        parts.append("None is better beyond chance, so the task's own value stays.")
    if proposal.key == "lora.layers":
        parts.append(_HYBRID_SAID)
    return " ".join(parts)


def _proposed(proposal: Proposal) -> str:
    """The setting; a rate that the task chooses stays open, for it follows from roster and noise."""
    line = _line(proposal.key.rpartition(".")[2], proposal.value)
    return f"#{line}" if proposal.is_default and proposal.key in _RATES and proposal.key in BY_TASK else line


def _change(change: Change | None) -> str:
    return "not known" if change is None else f"{change.change:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(setting: str, value: Any) -> str:
    return tomli_w.dumps({setting: value}).strip()


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, _COLUMNS))
