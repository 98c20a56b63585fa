"""The model card of an adapter, as `huggingface_hub.ModelCard` reads it: README.md in the adapter's folder.

What it is, base, task, labels, data in words, privacy, measures with their intervals, limits, lineage and software.
Texts of a job (name, purpose, labels) come from others: what Markdown or HTML would take for its own is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from yoriai.privacy.documents.adapter_facts import AdapterFacts
from yoriai.privacy.documents.rendering import template
from yoriai.privacy.dp.wording import terms
from yoriai.terminal import one_line

CARD_FILE: Final = "README.md"
_KINDS: Final = {"classify": "text-classification", "instruct": "text-generation", "lm": "text-generation"}
_TASKS: Final = {
    "classify": "choose one of its labels for a text",
    "instruct": "answer a prompt",
    "lm": "continue a text",
}


@dataclass(frozen=True)
class Measure:
    """A figure of an adapter on test records.

    Attributes:
        name: such as `accuracy`.
        value: with the adapter.
        interval: 95 %; None where none is known.
        before: of the base without it; None where that was not measured.
        records: test records; None where that is not known.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    before: float | None = None
    records: int | None = None


def card_text(facts: AdapterFacts, measures: Sequence[Measure], *, licence: str = "", records: str = "") -> str:
    """The whole card, front matter first.

    Args:
        measures: of the adapter; empty where none were given.
        licence: of the base model; empty where it is not known.
        records: what is known of them, in words: title and licence. Empty where they are the sites' own business.
    """
    from huggingface_hub import ModelCard, ModelCardData

    job = facts.job
    data = ModelCardData(
        base_model=one_line(facts.base_name),
        library_name="yoriai" if job.trains_head else "peft",
        pipeline_tag=_KINDS.get(job.task.kind),
        tags=["federated-learning", "differential-privacy", "yoriai"],
        model_name=one_line(job.name),
        eval_results=_results(facts, measures) or None,
    )
    told: str | None = None if facts.epsilon is None else terms(job.privacy.unit, facts.accountant)
    text = template("model_card.md.j2").render(
        card_data=data.to_yaml(),
        facts=facts,
        job=job,
        does=_TASKS.get(job.task.kind, "answer"),
        measures=[_shown(measure) for measure in measures],
        licence=licence,
        records=records,
        terms=told,
    )
    return str(ModelCard(text))


def _shown(measure: Measure) -> dict[str, str]:
    low_high = measure.interval
    return {
        "name": measure.name.replace("_", " "),
        "before": "not known" if measure.before is None else f"{measure.before:.3f}",
        "value": f"{measure.value:.3f}",
        "interval": "none is known" if low_high is None else f"{low_high[0]:.3f} to {low_high[1]:.3f}",
        "records": "not known" if measure.records is None else str(measure.records),
    }


def _results(facts: AdapterFacts, measures: Sequence[Measure]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=_KINDS.get(facts.job.task.kind, "other"),
            dataset_type="private",
            dataset_name="test records of the sites",
            metric_type=measure.name,
            metric_value=round(measure.value, 4),
        )
        for measure in measures
    ]
