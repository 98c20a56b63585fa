"""What a last adapter is worth at this site: measured on its own test records, before and after, and kept here.

It is for the site's operator alone. No message holds any of it (`docs/decisions/0014-evaluation-counts-stay.md`); this
module knows no message, and whoever talks to the coordinator does not know this module. It runs after the receipt has
left, so that the coordinator's deadline need not bear it: a slow machine takes minutes, and an adapter that is stored
is stored whether or not it could be measured. Meanwhile the site's next message waits.

Of an `instruct` task some test records stand in the file with both answers, unless site.toml says no: the file is the
site's own user's alone, and what reads it for tables and JSON (`adapter_place.read_evaluation`) leaves them out.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from yoriai.client.evaluation.side_by_side import changed_answers
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import LabelWords, base_tally
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.answers import SAMPLES, both_answer
from yoriai.client.training.evaluate import evaluate
from yoriai.client.versions.adapter_place import EVALUATION, EVALUATION_SCHEMA, VERSION
from yoriai.client.versions.deliveries import StoredAdapter
from yoriai.errors import YoriaiError
from yoriai.strategies.adapter import AdapterState, zeros_like
from yoriai.system.files import PRIVATE, write_atomically


class Measuring:
    """Stored adapters that are to be measured once the coordinator has its receipt.

    Args:
        records, session, samples, progress: as in `evaluate_stored`.
        on_fault: told what went wrong, for the site's own eyes. The adapter stays where it is.
    """

    def __init__(
        self,
        records: Sequence[Record],
        session: ModelSession,
        *,
        samples: bool,
        progress: Callable[[int, int], None] | None,
        on_fault: Callable[[str], None],
    ) -> None:
        self._records, self._session, self._samples = records, session, samples
        self._progress, self._on_fault = progress, on_fault
        self._kept: list[StoredAdapter] = []

    def add(self, stored: StoredAdapter) -> None:
        """Keep an adapter until the message that brought it is answered."""
        self._kept.append(stored)

    def work_off(self) -> None:
        """Measure what was kept."""
        while self._kept:
            stored = self._kept.pop()
            try:
                evaluate_stored(stored, self._records, self._session, samples=self._samples, progress=self._progress)
            except Exception as error:  # Of an unexpected one the type alone: its text might quote a record.
                what = str(error) if isinstance(error, YoriaiError) else type(error).__name__
                self._on_fault(f"the adapter in {stored.folder.name} could not be measured: {what}")


def evaluate_stored(
    stored: StoredAdapter,
    records: Sequence[Record],
    session: ModelSession,
    *,
    samples: bool,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Measure a stored adapter and the bare base, and write both beside it; nothing is done where that was done.

    Args:
        records: the site's test records; without any, nothing is measured.
        session: its lock is held meanwhile.
        samples: also keep some test records of an `instruct` task with both answers.
        progress: called as (records done, records in all) while they are prepared and at every batch; it may raise to
            give the evaluation up.

    Raises:
        YoriaiError: the records do not fit the task, or nothing can be written.
    """
    place = stored.folder / EVALUATION
    if not records or place.exists():
        return
    with session.lock:
        found = measure_own(stored, records, session, progress)
        answers = _samples(session.adapted(stored.job), found) if samples and stored.job.task.kind == "instruct" else []
    before, after = found.before, found.after
    document = {"schema": EVALUATION_SCHEMA, "run_id": stored.run_id, "adapter_digest": stored.adapter_digest}
    document |= {"task": stored.job.task.kind, "before": counts_of(before), "after": counts_of(after)}
    document |= {"paired": _paired(before, after), "samples": answers}
    write_atomically(place, json.dumps(document, indent=1, allow_nan=False).encode(), mode=PRIVATE)


@dataclass(frozen=True)
class OwnTallies:
    """The base and a stored adapter on the site's own test records.

    Attributes:
        bare: factors that leave the base as it is.
        state: the adapter's.
    """

    before: Tally
    after: Tally
    prepared: PreparedRecords
    bare: AdapterState
    state: AdapterState


def measure_own(
    stored: StoredAdapter,
    records: Sequence[Record],
    session: ModelSession,
    progress: Callable[[int, int], None] | None = None,
) -> OwnTallies:
    """Measure both; whoever calls holds the session's lock.

    Raises:
        YoriaiError: the records do not fit the task.
    """
    state, job = AdapterState.from_bytes((stored.folder / VERSION).read_bytes()), stored.job
    model, head = session.model(job), session.head(job)
    prepared = session.prepare(records, job, for_training=False, progress=progress)
    rows = session.speed.physical_batch_size

    def measured(adapter: AdapterState) -> Tally:
        exact = job.task.kind == "instruct"
        return evaluate(model, adapter, prepared, head, physical_batch_size=rows, exact_match=exact, progress=progress)

    # With every factor zero the product is zero, under any rule: this is the base without an adapter. A head of zeros
    # would always answer the first label; before it the base has the words of its labels.
    bare = zeros_like(state)
    if job.trains_head:
        words = LabelWords.untouched(model.base, job.task)
        before = base_tally(model, words, prepared, physical_batch_size=rows, progress=progress)
    else:
        before = measured(bare)
    return OwnTallies(before, measured(state), prepared, bare, state)


def _samples(model: AdaptedModel, found: OwnTallies) -> list[dict[str, str]]:
    """The first records that have a target, and what is answered without the adapter and with it."""
    chosen = [example for example in found.prepared.examples if example.loss_mask.any()][:SAMPLES]
    return [
        {"prompt": old.prompt, "expected": old.expected, "base": old.shown, "adapted": new.shown}
        for old, new in both_answer(model, chosen, found.bare, found.state)
    ]


def _paired(before: Tally, after: Tally) -> dict[str, int] | None:
    """Answers that became right, and wrong; None where it is not known which was which."""
    counts = changed_answers([before], [after])
    return None if counts is None else {"gained": counts[0], "lost": counts[1]}


def counts_of(tally: Tally) -> dict[str, Any]:
    """The counts and the scores that they give; None where there is none."""
    return {
        **tally.counts(),
        "loss": None if math.isnan(tally.loss) else tally.loss,
        "accuracy": tally.accuracy,
        "token_f1": tally.token_f1,
        "chrf": tally.chrf,
        "bits_per_byte": tally.bits_per_byte,
        "macro_f1": tally.macro_f1,
    }
