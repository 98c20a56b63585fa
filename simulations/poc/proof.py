"""`poc`: one site's folder or file in, an answer of one page out."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.client.records.columns import Reading
from yoriai.client.records.records import Record, SiteRecords, is_site, read_records, read_site
from yoriai.errors import ConfigError
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.poc.answer import Answer, answer, no_trial
from yoriai.simulations.poc.sanity import Sanity, examine
from yoriai.simulations.poc.trial import FEWEST_TRAIN, MOST_TEST, MOST_TRAIN, Trial, run_trial
from yoriai.simulations.report.report import Report
from yoriai.simulations.scenarios import DEFAULT, get_scenario
from yoriai.simulations.scenarios.partition import infer_task_kind, split
from yoriai.system.run_files import write_run_file

POC_SCHEMA: Final = 1
JSON_FILE, PAGE_FILE = "poc.json", "poc.html"
_TEST_FRACTION: Final = 0.25
_LEAST_TEST: Final = 20
_SEED: Final = 0


@dataclass(frozen=True)
class Proof:
    """All of it; `trial` is None where nothing could be tried."""

    name: str
    sanity: Sanity
    trial: Trial | None
    answer: Answer
    seconds: float


def prove(
    path: Path,
    observer: Observer,
    *,
    epsilon: float = 8.0,
    reading: Reading | None = None,
    settings: dict[str, object] | None = None,
) -> Proof:
    """Read, look, try, answer.

    Args:
        path: a site's folder with its train and test files, or one file, a quarter of which then measures.
        epsilon: of the private trials.
        settings: overrides by dotted key, for every trial.

    Raises:
        YoriaiError: the records cannot be read, or a trial fails.
    """
    observer.advance("reading the records", 0, 0)
    train, test = _read(path, reading or Reading())
    return prove_site(SiteRecords(path.resolve().stem, train, test), observer, epsilon=epsilon, settings=settings)


def example_site() -> SiteRecords:
    """The work orders of one machine, which come with Yoriai: what to look at before records of one's own.

    Raises:
        AssetError: they cannot be fetched.
    """
    sites = get_scenario(DEFAULT).sites()
    return max(sites, key=lambda site: len(site.train))


def prove_site(
    site: SiteRecords, observer: Observer, *, epsilon: float = 8.0, settings: dict[str, object] | None = None
) -> Proof:
    """As `prove`, of records that are read already."""
    began = time.monotonic()
    kind, _ = infer_task_kind(site.train)
    labelled = kind == "classify"
    sanity = examine(site.train, site.test, labelled=labelled)
    if why := _no_trial(site.train, site.test, labelled=labelled):
        return Proof(site.shown, sanity, None, no_trial(sanity, why), time.monotonic() - began)
    train, test = _some(site.train, MOST_TRAIN), _some(site.test, MOST_TEST)
    trial = run_trial(train, test, epsilon=epsilon, observer=observer, settings=settings)
    return Proof(site.shown, sanity, trial, answer(sanity, trial), time.monotonic() - began)


def write(proof: Proof, folder: Path) -> tuple[Path, Path]:
    """The page and the JSON file, in a folder that is made when missing.

    Raises:
        CheckpointError: a file cannot be written.
    """
    from yoriai.simulations.poc.page import render

    page = write_run_file(folder / PAGE_FILE, render(proof).encode())
    text = json.dumps(document(proof), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return page, write_run_file(folder / JSON_FILE, text.encode())


def document(proof: Proof) -> dict[str, Any]:
    """As JSON; `docs/evaluation.md` explains the keys. No record's text is in it, labels are."""
    sanity = proof.sanity
    return {
        "schema": POC_SCHEMA,
        "name": proof.name,
        "answer": {**asdict(proof.answer), "headline": proof.answer.headline},
        "sanity": {**asdict(sanity), "rare": list(sanity.rare), "warnings": list(sanity.warnings())},
        "trial": None if proof.trial is None else _trial(proof.trial),
        "seconds": round(proof.seconds, 1),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    names = ("alone", "alone_open", "together", "together_open")
    plain = {key: getattr(trial, key) for key in ("train", "test", "epsilon", "delta")}
    curves = {key: asdict(getattr(trial, key)) for key in ("curve", "curve_open")}
    return {**plain, **{name: _report(getattr(trial, name)) for name in names}, **curves}


def _report(report: Report) -> dict[str, Any]:
    return {
        "overall": {name: score.model_dump(mode="json", exclude_none=True) for name, score in report.overall.items()},
        "against": {name: one.model_dump(mode="json") for name, one in report.against.items()},
        "epsilon_spent": report.epsilon_spent,
    }


def _read(path: Path, reading: Reading) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    if not path.is_dir():
        return split(read_records(path, reading), _TEST_FRACTION, _SEED)
    if not is_site(path):
        raise ConfigError(
            f"{path} is no site's own folder",
            expected="a folder with train.jsonl and test.jsonl (or .json, .csv), or one file",
            remedy="name one site's folder; for a folder of sites use yoriai simulate --data",
        )
    site = read_site(path.resolve().name, path, reading)
    return site.train, site.test


def _no_trial(train: Sequence[Record], test: Sequence[Record], *, labelled: bool) -> str:
    """Why nothing can be tried; empty where it can."""
    if not labelled:
        return "A trial trains a head on labels, in seconds; these records have none. Use yoriai simulate for texts."
    if len(train) < FEWEST_TRAIN:
        return f"{len(train)} training records are too few for a trial; it takes {FEWEST_TRAIN}."
    if len(test) < _LEAST_TEST:
        return f"{len(test)} test records are too few to tell anything from chance; it takes {_LEAST_TEST}."
    if len({record.response for record in train}) < 2:
        return "All training records have one label, so there is nothing to tell apart."
    return ""


def _some(records: Sequence[Record], most: int) -> tuple[Record, ...]:
    """At most so many, at random and in a random order: a curve's first part must not be the first weeks."""
    import numpy as np

    order = np.random.default_rng(_SEED).permutation(len(records))[:most]
    return tuple(records[int(i)] for i in order)
