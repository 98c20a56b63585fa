"""`job check` on lengths, cuts, tokens a byte, time and memory."""

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.simulations.conftest import Run
from tests.tiny import tiny_tokenizer
from tests.world import Notebook, job_settings, write_records
from yoriai.client.model.limits import VOCABULARY_AT_ONCE
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.encoding import Example
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.training.answers import Answer
from yoriai.config import JobConfig, override
from yoriai.simulations.check import step_timing
from yoriai.simulations.check.job_check import Check, check, print_check
from yoriai.simulations.check.lengths import SiteLengths, distribution, poorly_read, site_lengths
from yoriai.simulations.check.step_timing import step_records
from yoriai.simulations.check.workload import Rates, Sizes, Work, logits_bytes, seconds, states_bytes, work_of
from yoriai.simulations.experiment.experiment import DataSource

TEXT = {"task.kind": "lm"}


def checked(base: Path, data: Path, heard: Notebook | None = None, **more: object) -> Check:
    return check(JobConfig(name="tiny"), DataSource(data), job_settings(base) | more, heard)


def shown(found: Check, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_check(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def job(**settings: object) -> JobConfig:
    return override(JobConfig(name="sizes"), {key.replace("__", "."): value for key, value in settings.items()})


def lengths(train: list[int], test: list[int], targets: list[int] | None = None) -> SiteLengths:
    counts = [tuple(part) for part in (train, test, test if targets is None else targets)]
    return SiteLengths(*counts, text_tokens=10, text_bytes=40)


def with_lengths(found: Check, *sites: SiteLengths) -> Check:
    """The same check of records with other lengths."""
    return dataclasses.replace(found, findings=dataclasses.replace(found.findings, lengths=sites))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two sites whose texts have known bytes: the tiny base has one token a byte."""
    for name, letters in (("en", "x"), ("ja", "油")):
        for part, sizes in (("train", (1, 2, 3, 4, 5, 6, 7, 8, 9, 60)), ("test", (10, 20))):
            records: list[dict[str, object]] = [{"text": letters * size} for size in sizes]
            write_records(tmp_path / "texts" / name / f"{part}.jsonl", records)
    return tmp_path / "texts"


def test_lengths_are_those_before_the_cut_and_the_cut_is_counted_with_its_share(base: Path, texts: Path) -> None:
    found = checked(base, texts, **TEXT | {"task.max_tokens": 50})
    english, japanese = found.findings.lengths
    assert english.train == (1, 2, 3, 4, 5, 6, 7, 8, 9, 60)
    assert japanese.train == tuple(3 * n for n in english.train)
    assert distribution(english.every, 50) == (dist := distribution([60, 20, *range(1, 11)], 50))
    assert (dist.median, dist.ninetieth, dist.longest, dist.cut) == (6, 20, 60, 1)
    assert sum(distribution(site.every, 50).cut for site in found.findings.lengths) == sum(found.findings.cut) == 3
    flat = " ".join(shown(found).split())
    assert "longest 180 (template included); 3 of 24 (12.5%) are longer than 50 and cut" in flat
    assert "en 10 2 1 1" in flat
    assert "6 20 60" in flat


def test_the_template_and_every_kind_of_record_are_counted() -> None:
    tokenizer = tiny_tokenizer()
    asked = SiteRecords("a", (Record(prompt="ab", response="cde"),), (Record(prompt="a", response="b"),))
    found = site_lengths(asked, tokenizer, job(task__kind="instruct", task__template="[{prompt}]").task)
    assert (found.train, found.test, found.test_targets) == ((2 + 2 + 3 + 1,), (2 + 1 + 1 + 1,), (2,))
    assert (found.text_tokens, found.text_bytes) == (7, 7)
    label = job(task__kind="classify", task__labels=("cde", "b"), task__template="[{prompt}]").task
    assert site_lengths(asked, tokenizer, label).train == (4,)
    assert site_lengths(asked, tokenizer, label).text_bytes == 3
    talk = SiteRecords("a", (Record(messages=(("user", "油"), ("assistant", "ok"))),), ())
    assert site_lengths(talk, tokenizer, job(task__kind="instruct").task).text_bytes == 5


def test_a_tokenizer_that_is_poor_on_a_sites_texts_draws_a_note_with_the_reason(base: Path, texts: Path) -> None:
    found = checked(base, texts, **TEXT)
    flat = " ".join(shown(found).split())
    assert "1.00 for each byte of text" in flat
    assert "tokenizer is poor on the texts of en 1.00, ja 1.00: more than 0.5 tokens a byte" in flat
    assert "pieces of characters" in flat
    good = [dataclasses.replace(site, text_tokens=site.text_bytes // 4) for site in found.findings.lengths]
    assert "tokenizer is poor" not in shown(with_lengths(found, *good))
    worse = dataclasses.replace(good[1], text_tokens=good[1].text_bytes * 6 // 10)
    assert poorly_read({"en": good[0], "ja": worse}) == ["ja"]
    assert "poor on the texts of ja 0.60" in " ".join(shown(with_lengths(found, good[0], worse)).split())


@pytest.mark.slow
def test_the_packaged_base_is_poor_on_japanese_and_not_on_english() -> None:
    from transformers import AutoTokenizer

    from yoriai.client.base.base_model import _resolve

    tokenizer = AutoTokenizer.from_pretrained(_resolve("smollm2-135m-instruct", None))
    said = {
        "en": "The hydraulic pump was leaking oil, so the seal was replaced.",
        "de": "Die Hydraulikpumpe verliert Öl, die Dichtung wurde ersetzt.",
        "ja": "油圧ポンプから油が漏れているため、シールを交換した。",
    }
    sites = {
        name: site_lengths(SiteRecords(name, (Record(text=text),), ()), tokenizer, job(task__kind="lm").task)
        for name, text in said.items()
    }
    assert poorly_read(sites) == ["ja"]


def test_work_is_counted_by_hand() -> None:
    asked = job(
        task__kind="instruct",
        federation__rounds=21,
        training__local_steps=2,
        training__sampling_rate=0.5,
        evaluation__every=10,
    )
    sites = [lengths([4, 6, 99], [5, 7], [2, 3]), lengths([10], [])]
    # 21 rounds are measured before, after 10 and 20, and at the end; 99 tokens are cut to 10.
    assert work_of(asked, sites, 10) == Work(prefix=42, trained=21 * 2 * 0.5 * 30, evaluated=4 * 12, answered=4 * 5)
    alone = job(task__kind="lm", speed__prefix_cache=False, evaluation__every=0, personal__rounds=3)
    assert work_of(alone, sites, 10) == Work(
        prefix=0,
        trained=pytest.approx((alone.federation.rounds + 3) * 0.12 * 30),  # type: ignore[arg-type]
        evaluated=3 * 12,
        answered=0,
    )


def test_answers_are_counted_up_to_as_many_as_are_generated() -> None:
    many = [lengths([1], [9] * 100, [3] * 100)]
    assert work_of(job(task__kind="instruct", evaluation__every=0), many, 50).answered == 2 * 64 * 3


def test_time_is_work_at_the_measured_rates() -> None:
    work, rates = Work(100, 1000, 10, 20), Rates(prefix=0.1, trained=0.02, evaluated=0.5, answered=0.25, once=3)
    assert seconds(work, rates) == pytest.approx(3 + 10 + 20 + 5 + 5)


def test_memory_by_count_is_that_of_states_and_of_the_largest_batch_of_tests() -> None:
    sizes = Sizes(hidden=8, vocabulary=100)
    sites = [lengths([10, 20], [5, 9], [4, 6]), lengths([10], [30], [40])]
    reading = job(task__kind="lm", speed__physical_batch_size=2)
    assert states_bytes(reading, sites, 25, sizes) == 4 * 8 * (30 + 14 + 10 + 25)
    assert logits_bytes(reading, sites, 25, sizes) == 4 * 100 * max(2 * 6, 1 * 25)
    assert logits_bytes(reading, sites, 25, Sizes(hidden=8, vocabulary=10**6)) == 4 * VOCABULARY_AT_ONCE * 25
    assert states_bytes(job(speed__prefix_cache=False), sites, 25, sizes) == 0
    assert logits_bytes(job(task__kind="classify"), sites, 25, sizes) == 0
    large = Sizes(hidden=8_000_000, vocabulary=1)
    assert states_bytes(reading, sites, 25, large) == 4 * 8_000_000 * (14 + 10)  # The others lie in a file.


def test_one_real_step_is_timed_and_thrown_away(base: Path, texts: Path, run: Run) -> None:
    heard = Notebook()
    found = checked(base, texts, heard, **TEXT)
    step = found.estimate.step
    assert step.records == 5  # Of ten records at each site, a batch draws half.
    assert all(0 < rate < 10 for rate in (step.rates.prefix, step.rates.trained, step.rates.evaluated))
    assert step.rates.answered == 0
    assert {"timing one step: prefix", "timing one step: gradients"} <= {what for what, _, _ in heard.advances}
    assert math.isfinite(found.estimate.seconds)
    assert found.estimate.peak_bytes > step.resident_bytes > 10 * 2**20
    text = " ".join(shown(found).split())
    assert "measured in one real step of 5 records, which was thrown away" in text
    assert "between half and twice that" in text
    assert "a third more or less" in text
    assert all(len(line) <= 80 for line in shown(found).splitlines())


def test_a_step_is_a_batch_of_the_mean_site_and_of_long_records_no_more_than_two_pieces() -> None:
    short, long = np.full(2000, 15), np.full(2000, 4000)
    assert step_records(short, 128, batch=84.0) == 84
    assert step_records(short, 128, batch=500.0) == 1536 // 15
    assert step_records(long, 128, batch=84.0) == 1536 // 128
    assert step_records(long, 4096, batch=84.0) == 2
    assert step_records(short, 128, batch=0.3) == 2


def test_more_rounds_take_longer_at_the_same_rates(base: Path, texts: Path) -> None:
    found = checked(base, texts, **TEXT)
    longer = work_of(override(found.experiment.job, {"federation.rounds": 300}), found.findings.lengths, 128)
    assert seconds(longer, found.estimate.step.rates) > 3 * seconds(found.estimate.work, found.estimate.step.rates) / 2


def test_an_answer_is_timed_where_answers_are_generated_and_few_records_suffice(base: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for site in ("a", "b"):
            records: list[dict[str, object]] = [{"prompt": f"{part} 1", "response": "the answer"}]
            write_records(tmp_path / "asked" / site / f"{part}.jsonl", records)
    found = checked(base, tmp_path / "asked", **{"task.kind": "instruct"})
    assert found.estimate.step.records == 2
    assert found.estimate.step.rates.answered > 0
    assert found.estimate.work.answered == 2 * 2 * len("the answer ") + 2 * 2 * len("the answer ")


def test_few_answers_are_timed_however_many_records_a_step_has(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timing, "_ANSWERS", 3)
    real, timed = step_timing.answers, list[int]()

    def counted(model: AdaptedModel, examples: Sequence[Example]) -> list[Answer]:
        timed.append(len(examples))
        return real(model, examples)

    monkeypatch.setattr(step_timing, "answers", counted)
    records: list[dict[str, object]] = [{"prompt": f"ask {n}", "response": "yes"} for n in range(30)]
    for part in ("train", "test"):
        for site in ("a", "b"):
            write_records(tmp_path / "asked" / site / f"{part}.jsonl", records)
    found = checked(base, tmp_path / "asked", **{"task.kind": "instruct", "training.sampling_rate": 1.0})
    assert timed == [3]
    assert found.estimate.step.rates.answered > 0


def test_a_job_is_checked_on_one_sites_own_folder_as_so_many_sites_alike(base: Path, texts: Path) -> None:
    own, all_of_them = checked(base, texts / "en", **TEXT), checked(base, texts, **TEXT)
    assert (own.alike, len(own.experiment.sites), all_of_them.alike) == (2, 2, 0)
    assert (own.epsilon, own.noise_multiplier) == (all_of_them.epsilon, all_of_them.noise_multiplier)
    screen = shown(own)
    assert "one site's own records, checked as 2 sites alike" in screen
    assert ("en-1" in screen, "en-2" in screen) == (True, False)
