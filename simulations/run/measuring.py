"""The sites' test records, measured by the simulation itself: in a deployment each site measures only for itself."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from yoriai.client.evaluation.naive_bayes import baselines
from yoriai.client.model.measure import Tally, majority_tally
from yoriai.client.model.per_record import PerRecord
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.base_answers import LabelWords, base_tally
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.answers import SAMPLES, both_answer
from yoriai.client.training.evaluate import evaluate
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.report.report import Paired, Sample, Score
from yoriai.simulations.scenarios.private_counts import private_baseline
from yoriai.strategies.adapter import AdapterState
from yoriai.system.run_files import write_run_file

SiteTallies = dict[str, Tally]


@dataclass(frozen=True)
class TestBench:
    """Measures adapters on every site's test records."""

    __test__ = False  # pytest must not take this for a test class.

    job: JobConfig
    sites: tuple[SiteRecords, ...]
    session: ModelSession
    observer: Observer

    def measure(self, adapter: AdapterState) -> SiteTallies:
        """Counts by site."""
        model, head = self.session.model(self.job), self.session.head(self.job)
        return self._by_site(
            lambda records: evaluate(
                model,
                adapter,
                records,
                head,
                physical_batch_size=self.session.speed.physical_batch_size,
                exact_match=self.job.task.kind == "instruct",
            )
        )

    def measure_base(self, initial: AdapterState) -> SiteTallies:
        """Counts by site of the untouched base, which is what the job's first adapter leaves it.

        A head that has not trained answers nothing; there the base answers with its labels' words.
        """
        if not self.job.trains_head:
            return self.measure(initial)
        model, rows = self.session.model(self.job), self.session.speed.physical_batch_size
        words = LabelWords.untouched(self.session.base, self.job.task)
        return self._by_site(lambda records: base_tally(model, words, records, physical_batch_size=rows))

    def _by_site(self, count: Callable[[PreparedRecords], Tally]) -> SiteTallies:
        tallies = {}
        measured = [site for site in self.sites if site.test]
        for done, site in enumerate(measured):
            self.observer.advance("measuring", done, len(measured))
            name = site.name
            records = self.session.prepare(
                site.test,
                self.job,
                for_training=False,
                progress=lambda n, total, name=name: self.observer.advance(f"prefix of tests {name}", n, total),  # type: ignore[misc]
            )
            tallies[name] = count(records)
        self.observer.advance("measuring", len(measured), len(measured))
        return tallies

    def samples(self, before: AdapterState, after: AdapterState) -> tuple[Sample, ...]:
        """Some test records with both adapters' answers, a site's after another's: text, for whoever has the records.

        None for a task whose answers are no text.
        """
        if self.job.task.kind != "instruct":
            return ()
        self.observer.advance("sample answers", 0, 0)
        model = self.session.adapted(self.job)
        by_site = [
            [(site.name, example) for example in self.session.encode(site.test[:SAMPLES], self.job.task).examples]
            for site in self.sites
            if site.test
        ]
        in_turn = [pair for row in zip_longest(*by_site) for pair in row if pair is not None]
        chosen = [(name, example) for name, example in in_turn if example.loss_mask.any()][:SAMPLES]
        answers = both_answer(model, [example for _, example in chosen], before, after)
        return tuple(
            Sample(site=name, prompt=old.prompt, expected=old.expected, base=old.shown, adapted=new.shown)
            for (name, _), (old, new) in zip(chosen, answers, strict=True)
        )

    def counted(self) -> dict[str, SiteTallies]:
        """Naive Bayes by its names in a report; classify only, and with privacy only where the job has some."""
        if self.job.task.kind != "classify":
            return {}
        found = baselines(self.sites, self.job.task.labels)
        if (private := private_baseline(self.sites, self.job)) is not None:
            found["naive_bayes_private"] = private
        tested = {site.name for site in self.sites if site.test}
        return {name: {s: tally for s, tally in by.items() if s in tested} for name, by in found.items()}

    def majorities(self) -> SiteTallies:
        """Always answering the commonest label of a site's training records; classify only."""
        index = {label: i for i, label in enumerate(self.job.task.labels)}
        return {
            site.name: majority_tally(
                [index[record.response or ""] for record in site.train],
                [index[record.response or ""] for record in site.test],
                len(index),
            )
            for site in self.sites
            if site.test
        }

    def overall_majority(self) -> Tally:
        """Always answering the commonest label of all training records together."""
        index = {label: i for i, label in enumerate(self.job.task.labels)}
        return majority_tally(
            [index[record.response or ""] for site in self.sites for record in site.train],
            [index[record.response or ""] for site in self.sites for record in site.test],
            len(index),
        )


def together(tallies: Mapping[str, Tally]) -> Tally:
    """All sites' counts added up, in the order of names."""
    ordered = [tallies[name] for name in sorted(tallies)]
    total = ordered[0]
    for tally in ordered[1:]:
        total = total + tally
    return total


def score(tally: Tally | None, kind: str) -> Score:
    """The report's score of a tally; a site without test records, or without a target in them, scores nothing."""
    if tally is None or not tally.loss_units:
        return Score(records=0)
    answers = {"accuracy": tally.accuracy}
    if kind == "instruct":
        answers = {"exact_match": tally.accuracy, "token_f1": tally.token_f1, "chrf": tally.chrf}
    records = tally.answered if kind == "instruct" and tally.answered else tally.records
    return Score.measured(
        records, loss=tally.loss, macro_f1=tally.macro_f1, bits_per_byte=tally.bits_per_byte, **answers
    )


def paired(before: Tally | None, after: Tally | None) -> Paired | None:
    """Records whose answer changed, where both models answered the same ones."""
    if before is None or after is None or before.hits is None or after.hits is None:
        return None
    return Paired(gained=int((~before.hits & after.hits).sum()), lost=int((before.hits & ~after.hits).sum()))


class Measurements:
    """Tallies by name ("base", "round 10", "federated", …), kept in one file so that a resumed run has them all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, SiteTallies] = {}
        if path.exists():
            try:
                stored = json.loads(path.read_bytes())
                self._kept = {
                    name: {site: _tally_from(values) for site, values in tallies.items()}
                    for name, tallies in stored.items()
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{path} is damaged", found=type(error).__name__, remedy="delete it; what it holds is measured anew"
                ) from error

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __getitem__(self, name: str) -> SiteTallies:
        return self._kept[name]

    def put(self, name: str, tallies: SiteTallies) -> SiteTallies:
        """Keep and store."""
        self._kept[name] = tallies
        stored = {n: {site: _tally_to(tally) for site, tally in t.items()} for n, t in self._kept.items()}
        write_run_file(self._path, json.dumps(stored).encode())
        return tallies

    def by_round(self) -> dict[int, SiteTallies]:
        """The measurements taken between rounds, by the number of finished rounds."""
        prefix = "round "
        return {int(n.removeprefix(prefix)): t for n, t in self._kept.items() if n.startswith(prefix)}


def _tally_to(tally: Tally) -> dict[str, Any]:
    return {
        **tally.counts(),
        "confusion": None if tally.confusion is None else tally.confusion.tolist(),
        "hits": None if tally.hits is None else tally.hits.astype(int).tolist(),
        "per_record": None if tally.per_record is None else tally.per_record.to_json(),
    }


def _tally_from(values: dict[str, Any]) -> Tally:
    confusion, hits = values.pop("confusion"), values.pop("hits")
    per_record = values.pop("per_record", None)  # Missing in a run of an earlier version.
    return Tally(
        **values,
        confusion=None if confusion is None else np.array(confusion, np.int64),
        hits=None if hits is None else np.array(hits, np.bool_),
        per_record=None if per_record is None else PerRecord.from_json(per_record),
    )
