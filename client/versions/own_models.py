"""A last adapter side by side with everything else there is, on this site's own test records: for its operator's eyes.

Beside base and adapter, which are measured when an adapter comes (`own_evaluation.py`), this knows what needs no model:
the commonest label, and counting words. It reads records and adapter, and writes nothing: no message holds any of it,
and no ledger is charged, as nothing of it is released.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from yoriai.client.evaluation.by_label import LabelChange, label_changes
from yoriai.client.evaluation.by_language import LanguageChange, SiteAnswers, by_language
from yoriai.client.evaluation.calibration import Calibration, calibration
from yoriai.client.evaluation.naive_bayes import naive_bayes_tally
from yoriai.client.evaluation.side_by_side import METHOD, Against, against
from yoriai.client.model.measure import Tally, majority_tally
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.adapter_place import VERSION
from yoriai.client.versions.deliveries import StoredAdapter
from yoriai.client.versions.own_evaluation import OwnTallies, counts_of, measure_own

ADAPTED: Final = "adapted"
OWN_MODELS_SCHEMA: Final = 1


@dataclass(frozen=True)
class OwnModels:
    """Models by name: `adapted`, `base`, and of labels also `majority` and `naive_bayes`.

    Attributes:
        kind: of the task.
        tallies: of every model, on the same test records.
        against: the adapter against each of the others.
        calibration: by model; classifiers only.
        labels: base against adapter, the largest gain first; empty where there are no labels.
        adapter_bytes: of the adapter that was delivered, complete.
    """

    run_id: str
    adapter_digest: str
    kind: str
    tallies: Mapping[str, Tally]
    against: Mapping[str, Against]
    calibration: Mapping[str, Calibration]
    labels: tuple[LabelChange, ...]
    languages: tuple[LanguageChange, ...]
    adapter_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; no record's text is in it, labels are."""
        return {
            "schema": OWN_MODELS_SCHEMA,
            "run_id": self.run_id,
            "adapter_digest": self.adapter_digest,
            "task": self.kind,
            "models": {
                name: counts_of(tally)
                | {"calibration": asdict(self.calibration[name]) if name in self.calibration else None}
                for name, tally in self.tallies.items()
            },
            "adapted_against": {name: one.as_json() for name, one in self.against.items()},
            "labels": [asdict(one) for one in self.labels],
            "languages": [one.as_json() for one in self.languages],
            "adapter_bytes": self.adapter_bytes,
            "method": METHOD,
        }


def compare_on_own(
    stored: StoredAdapter,
    records: SiteRecords,
    session: ModelSession,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> OwnModels:
    """Measure every model on the site's test records.

    Args:
        progress: called as (records done, records in all); it may raise to give up.

    Raises:
        RecordError: there is no test record, or one does not fit the task.
        YoriaiError: the adapter does not fit the base.
    """
    with session.lock:
        own = measure_own(stored, records.test, session, progress)
    tallies = {ADAPTED: own.after, "base": own.before}
    task = stored.job.task
    if task.kind == "classify":
        tallies |= _without_a_model(records, task.labels)
    sure = {name: tally.per_record for name, tally in tallies.items() if tally.per_record is not None}
    return OwnModels(
        run_id=stored.run_id,
        adapter_digest=stored.adapter_digest,
        kind=task.kind,
        tallies=tallies,
        against={name: against([tally], [own.after]) for name, tally in tallies.items() if name != ADAPTED},
        calibration={name: found for name, record in sure.items() if (found := calibration(record)) is not None},
        labels=_labels(own, task.labels),
        languages=by_language([SiteAnswers(records.test, own.before, own.after)]),
        adapter_bytes=(stored.folder / VERSION).stat().st_size,
    )


def _labels(own: OwnTallies, labels: tuple[str, ...]) -> tuple[LabelChange, ...]:
    before, after = own.before.per_record, own.after.per_record
    if before is None or after is None or not after.has_labels:
        return ()
    return label_changes(before, after, labels)


def _without_a_model(records: SiteRecords, labels: tuple[str, ...]) -> dict[str, Tally]:
    """The commonest label, and naive Bayes; of training records with another label the job did not learn either."""
    index = {label: number for number, label in enumerate(labels)}

    def numbers(some: tuple[Record, ...]) -> list[int]:
        return [index[record.response or ""] for record in some]

    train = tuple(record for record in records.train if record.response in index)
    found = {"majority": majority_tally(numbers(train), numbers(records.test), len(labels))}
    if train:
        found["naive_bayes"] = naive_bayes_tally(train, records.test, labels)
    return found
