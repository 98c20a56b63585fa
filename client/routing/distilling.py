"""A small head learns from a large model's labels of public prompts; nothing private is in either direction.

    down    prompt → redacted → large model's label → the small head is trained on (prompt, label)
    up      small head's label of a public prompt → a line in the large model's message → another label

The prompts are public, or declared so by whoever brings them; one that is among the site's own records is refused, and
so no record leaves and no ledger is charged: training on public records costs no privacy. The head that is gone on
from was released when its job ended. What was learnt is no version: no coordinator signed it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from yoriai.client.model.public_texts import text_digest
from yoriai.client.records.records import Record, text_of
from yoriai.client.routing.router import Local, Routed, Router
from yoriai.client.session.export import HEAD_FILE
from yoriai.client.session.loading import read_task
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.personal import PersonalTraining, train_personal
from yoriai.config import HeadSection, JobConfig, override
from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.strategies.adapter import AdapterState

ROUNDS: Final = 60
_RATE: Final = 0.05
_FEWEST: Final = 2  # Labels among the answers; with one there is nothing to tell apart.


def refuse_private(prompts: Iterable[str], records: Iterable[Record]) -> None:
    """Raise PolicyError if a prompt is one of the site's own records, however blanks and capitals are written."""
    own = {text_digest(text_of(record)) for record in records}
    if count := sum(text_digest(prompt) in own for prompt in prompts):
        raise PolicyError(
            "prompts that are said to be public are among the site's own records",
            found=f"{count} of them",
            expected="none: records do not leave",
            remedy="take them out of the file",
        )


def read_head(folder: Path, base_name: str) -> tuple[JobConfig, AdapterState]:
    """A version's head, and a job without privacy that goes on from it.

    Args:
        base_name: where the base is at this site.

    Raises:
        ConfigError: it is no head.
        AdapterError: the folder says nothing of what it answers.
    """
    task = read_task(folder)
    if task.get("head") != "trained":
        raise ConfigError("only a head that trains learns from labels", found=folder.name, expected=HEAD_FILE)
    return head_job(task, base_name), AdapterState.from_bytes((folder / HEAD_FILE).read_bytes())


def head_job(task: Mapping[str, Any], base_name: str) -> JobConfig:
    """A job on public records with the shape of the head that task.json describes."""
    shape = {f"head.{name}": task[name] for name in HeadSection.model_fields if name in task}
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in shape.items()}
    settings: dict[str, object] = {
        "base.model": base_name,
        "task.kind": "classify",
        "task.labels": tuple(task["labels"]),
        "task.template": task["template"],
        "task.max_tokens": task["max_tokens"],
        "task.head": "trained",
        "privacy.noise": "none",
        "secure_aggregation.enabled": False,
        "training.sampling_rate": 1.0,
        "training.local_steps": 1,
        "training.learning_rate": 1.0,
        "personal.rounds": ROUNDS,
        "personal.learning_rate": _RATE,
    }
    return override(JobConfig(name="distil"), settings | listed)


def ask_all(
    router: Router,
    prompts: Sequence[str],
    labels: Sequence[str],
    *,
    hints: bool,
    allow: Callable[[str], bool],
    progress: Callable[[int], None],
) -> list[Routed]:
    """The large model's label of each prompt.

    Args:
        router: one that finds no answer sure enough.
        labels: the small model's, by prompt; with `hints` each stands in the message.
        allow: asked before a message leaves.
        progress: told how many are done.
    """
    found = []
    for prompt, label in zip(prompts, labels, strict=True):
        hint = f"A small model that knows this field says: {label}" if hints else ""
        found.append(router.route(prompt, Local(label, 0.0), allow=allow, hint=hint))
        progress(len(found))
    return found


def learn(
    session: ModelSession,
    job: JobConfig,
    start: AdapterState,
    prompts: Sequence[str],
    answers: Sequence[Routed],
    *,
    source: RandomSource,
) -> AdapterState:
    """Train the head on the labels that the large model gave; where it gave none the prompt is left out.

    Args:
        start: that is gone on from.
        source: of the order of records; nothing is noised.

    Raises:
        ConfigError: the large model gave fewer than two different labels.
    """
    taught = [
        Record(prompt=prompt, response=answer.label)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.where == "large"
    ]
    if len({record.response for record in taught}) < _FEWEST:
        raise ConfigError(
            "the large model's answers teach nothing",
            found=f"{len(taught)} answers, {len({record.response for record in taught})} different labels",
            expected="two different labels at least",
            remedy="look at the reasons in route/left.jsonl",
        )
    session.model(job).check(start)
    training = PersonalTraining("distil", job, start, session.prepare(taught, job), weight=len(taught))
    return train_personal(training, session, None, source=source)


def mark(folder: Path, **facts: object) -> None:
    """Write beside what was learnt where it comes from. Raises OSError if that cannot be."""
    (folder / "distilled.json").write_text(json.dumps({"schema": 1, **facts}, indent=1), encoding="utf-8")
