"""Folders that an earlier version wrote are read, and go on as they would have.

`before/folders.tar.gz` was written on 2026-11-29, by commit 6442000: a run of three rounds on a tiny base that was
interrupted after the first, the ledgers and the end of the same run uninterrupted, and a site's book of jobs.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from yoriai.client.offer.job_book import JobBook
from yoriai.config import load_job
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.run.api import resume
from yoriai.simulations.run.options import Options
from yoriai.strategies.adapter import AdapterState


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders; the run is told where its records lie now."""
    place = tmp_path_factory.mktemp("before")
    shutil.unpack_archive(Path(__file__).with_name("before") / "folders.tar.gz", place)
    run = place / "run" / "run.json"
    run.write_text(run.read_text().replace("@HERE@", str(place)))
    return place


def test_an_interrupted_run_ends_where_it_would_have_and_charges_the_same(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the last bit, which is the CPU's: on the machine that wrote them, digests are equal too."""
    expected = json.loads((before / "finished" / "expected.json").read_text())
    monkeypatch.chdir(before)  # The job names its base as ./base.
    report = resume(before / "run", options=Options(noise_seed=b"seed"))
    checkpoint = json.loads((before / "run" / "checkpoint.json").read_text())
    assert len(report.rounds) == 3
    ends = [
        AdapterState.from_bytes(path.read_bytes()).tensors
        for path in (
            before / "run" / "adapters" / f"{checkpoint['adapter']['factors']['R']}.safetensors",
            before / "finished" / "R.safetensors",
        )
    ]
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        np.testing.assert_allclose(tensor, ends[1][name], rtol=0, atol=1e-4)
    for site, spent in expected["spent"].items():
        with Ledger.existing(before / "run" / "ledgers" / f"{site}.sqlite") as ledger:
            assert ledger.spent() == pytest.approx(spent, rel=1e-9)


def test_a_finished_runs_ledgers_are_read_and_whole(before: Path) -> None:
    expected = json.loads((before / "finished" / "expected.json").read_text())
    for site, spent in expected["spent"].items():
        with Ledger.existing(before / "finished" / "ledgers" / f"{site}.sqlite") as ledger:
            assert [charge.released for charge in ledger.charges()] == [True] * 3
            assert ledger.spent() == pytest.approx(spent, rel=1e-9)


def test_a_book_of_jobs_keeps_every_decision(before: Path) -> None:
    entries = JobBook(before / "site" / "jobs").entries()
    assert {entry.run_id: (entry.state, entry.decided_by) for entry in entries} == {
        "run-1": ("waiting", ""),
        "run-2": ("approved", "hana"),
        "run-3": ("refused", "hana"),
    }
    assert {entry.terms.config().name for entry in entries} == {"pumps"}


def test_a_job_file_reads_as_the_job_that_it_was(before: Path) -> None:
    job = load_job(before / "run" / "job.toml")
    assert (job.federation.rule, job.lora.rank, job.privacy.epsilon) == ("core", 4, 8.0)
