"""A proof of concept: records looked at by hand-made cases, a small trial run whole, and the answer's rule."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands import yoriai
from tests.simulations.browser import in_browser, opened, sheets
from tests.world import Notebook, save_tiny_base, write_sites
from yoriai.client.evaluation.language import guess
from yoriai.client.records.records import Record
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.poc.answer import answer, beats
from yoriai.simulations.poc.curve import NEAR, fit
from yoriai.simulations.poc.personal_data import kinds_in
from yoriai.simulations.poc.proof import Proof, document, example_site, prove, write
from yoriai.simulations.poc.sanity import examine
from yoriai.simulations.poc.trial import Trial
from yoriai.simulations.report.report import Compared, Paired

SMALL = {"head.directions": 8, "head.words": 32, "federation.rounds": 2, "speed.threads": 1}


def _records(*pairs: tuple[str, str]) -> tuple[Record, ...]:
    return tuple(Record(prompt=prompt, response=response) for prompt, response in pairs)


# Sanity ------------------------------------------------


def test_duplicates_leaks_and_contradictions_are_counted_without_case_and_spacing() -> None:
    train = _records(("Pump leaks", "pump"), ("pump  LEAKS", "pump"), ("hose", "hose"), ("Hose", "pump"))
    found = examine(train, _records(("PUMP leaks", "pump"), ("new", "hose")), labelled=True)
    assert (found.duplicates, found.leaks, found.contradictions) == (2, 1, 1)
    assert any("1 of 2 test records" in sentence for sentence in found.warnings())


def test_balance_and_lengths_are_counted() -> None:
    train = _records(*[(f"text {i}", "often") for i in range(8)], ("one two three four", "seldom"))
    found = examine(train, (), labelled=True)
    assert found.labels == {"often": 8, "seldom": 1}
    assert found.rare == ("seldom",)
    assert found.commonest_share == pytest.approx(8 / 9)
    assert found.words == (2, 2, 4)


def test_clean_records_give_no_warning() -> None:
    train = _records(*[(f"pump number {i} is leaking", f"label {i % 2}") for i in range(20)])
    assert examine(train, _records(("another pump", "label 0")), labelled=True).warnings() == ()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jo.bloggs@example.org", ["e-mail address"]),
        ("ring 090-1234-5678 at once", ["telephone number"]),
        ("ring +34 600 123 456", ["telephone number"]),
        ("card 4111 1111 1111 1111", ["card number"]),
        ("card 4111 1111 1111 1112", []),
        ("GB82 WEST 1234 5698 7654 32", ["bank account"]),
        ("GB82 WEST 1234 5698 7654 33", []),
        ("host 192.168.10.7 is down", ["internet address"]),
        ("told Mr Smith", ["name with a title"]),
        ("田中さんに連絡", ["name with a title"]),
        ("お客様に連絡", ["name with a title"]),  # A false alarm, which a look settles.
        ("replace hose 12 on 2004-01-02, 4500 h, part 330-12/8", []),
        ("LH bucket tooth missing; 250 bar at 80 C", []),
    ],
)
def test_personal_data_is_found_by_its_pattern_and_check_digits(text: str, kinds: list[str]) -> None:
    assert kinds_in(text) == kinds


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("the engine has oil on it and is not starting", "en"),
        ("la bomba no funciona y el aceite sale por la manguera", "es"),
        ("o óleo não está na bomba e a mangueira do motor", "pt"),
        ("油圧ポンプから油が漏れている", "ja"),
        ("液压泵漏油", "zh"),
        ("die Pumpe ist undicht und der Schlauch auf dem Boden", "de"),
        ("X7 / 300", "unknown"),
    ],
)
def test_the_language_is_guessed(text: str, code: str) -> None:
    assert guess([text]) == code


# Learning curve ----------------------------------------


def test_a_curve_finds_the_law_that_made_it() -> None:
    """Wrong answers 0.1 + 1.2 / √n: 3 points are left at (1.2 / 0.03)² = 1,600 records."""
    generator, tests = np.random.default_rng(0), 40_000
    hits = {n: generator.random(tests) > 0.1 + 1.2 / np.sqrt(n) for n in (50, 100, 200, 400)}
    found = fit(hits)
    assert found.rises
    assert found.limit == pytest.approx(0.9, abs=0.02)
    assert found.needed is not None
    assert found.needed[1] <= (1.2 / NEAR) ** 2 <= found.needed[2]
    assert found.missing(400) == round(found.needed[0]) - 400
    assert found.missing(10_000) == 0


def test_a_flat_curve_calls_nothing_missing() -> None:
    right = np.arange(100) < 60
    found = fit({50: right, 100: right})
    assert (found.rises, found.needed, found.missing(100)) == (False, None, 0)


# The whole ---------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sites(tmp_path_factory.mktemp("data"), {"plant": 60}, test_size=40) / "plant"
    for part in ("train", "test"):  # Texts that stand nowhere else.
        file = folder / f"{part}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        texts = [row | {"prompt": f"{row['prompt']} {part}zzq{number}"} for number, row in enumerate(rows)]
        file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return folder


@pytest.fixture(scope="module")
def proof(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Proof:
    base = save_tiny_base(tmp_path_factory.mktemp("base") / "base")
    return prove(site, Silent(), epsilon=8.0, settings={"base.model": str(base), **SMALL})


@pytest.fixture(scope="module")
def trial(proof: Proof) -> Trial:
    assert proof.trial is not None
    return proof.trial


def test_every_training_is_there_on_the_same_test_records(trial: Trial) -> None:
    reports = (trial.alone, trial.alone_open, trial.together, trial.together_open)
    assert [report.privacy.noise for report in reports] == ["local", "none", "distributed", "none"]
    assert all(report.overall["federated"].records == 40 for report in reports)
    assert "local" in trial.together.against
    assert len({report.overall["base"].accuracy for report in reports}) == 1
    assert (trial.curve.sizes, trial.curve_open.sizes) == ((15, 30, 60), (15, 30, 60))
    assert trial.curve.accuracy[-1] == pytest.approx(trial.alone.overall["federated"].accuracy)  # Summed in two orders.


def test_the_ledgers_of_the_trial_keep_its_epsilon(trial: Trial) -> None:
    for report in (trial.alone, trial.together):
        assert report.epsilon_spent is not None
        assert report.epsilon_spent <= 8.0


def test_nothing_of_a_trial_stays_but_the_answer(proof: Proof, site: Path, tmp_path: Path) -> None:
    page, file = write(proof, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poc.html", "poc.json"]
    texts = {json.loads(line)["prompt"] for line in (site / "train.jsonl").read_text().splitlines()}
    assert not any(text in page.read_text() or text in file.read_text() for text in texts)
    assert json.loads(file.read_text())["trial"]["curve"]["sizes"] == [15, 30, 60]


def test_the_page_fetches_nothing_and_escapes_what_it_shows(proof: Proof, tmp_path: Path) -> None:
    labels = {"<script>alert(1)</script>": 3}
    page, _ = write(replace(proof, sanity=replace(proof.sanity, labels=labels)), tmp_path)
    text = page.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)\s*=|url\(|https?://", text)


@in_browser
def test_the_page_prints_on_one_sheet_and_the_browser_has_nothing_to_complain_of(proof: Proof, tmp_path: Path) -> None:
    labels = {f"a label of the usual length {number}": 9 for number in range(13)}
    full = replace(proof.answer, reasons=proof.answer.reasons * 2)
    page, _ = write(replace(proof, answer=full, sanity=replace(proof.sanity, labels=labels)), tmp_path)
    _, complaints = opened(page)
    assert (sheets(page), complaints) == (1, [])


def _with(trial: Trial, *, private: bool, plain: bool) -> Trial:
    def judged(shown: bool) -> dict[str, Compared]:
        return {
            name: Compared(paired=Paired(gained=20 if shown else 2, lost=0), changes={})
            for name in ("base", "majority")
        }

    return replace(
        trial,
        alone=trial.alone.model_copy(update={"against": judged(private)}),
        alone_open=trial.alone_open.model_copy(update={"against": judged(plain)}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("private", "plain", "decision"), [(True, True, "yes"), (False, True, "join"), (False, False, "no")]
)
def test_the_decision_follows_its_rule(proof: Proof, trial: Trial, private: bool, plain: bool, decision: str) -> None:
    clean = replace(proof.sanity, leaks=0)
    assert answer(clean, _with(trial, private=private, plain=plain)).decision == decision


def test_leaks_come_before_any_score(proof: Proof, trial: Trial) -> None:
    assert answer(replace(proof.sanity, leaks=9), _with(trial, private=True, plain=True)).decision == "mend"


def test_joining_is_claimed_only_where_its_interval_leaves_out_zero(proof: Proof, trial: Trial) -> None:
    change = trial.together.against["local"].changes["accuracy"]
    said = answer(proof.sanity, trial).joining
    assert ("it is not shown that joining adds" in said) == (change.low <= 0)
    assert beats(trial.alone) in (True, False)


@pytest.mark.parametrize(("gained", "lost", "said"), [(2, 1, True), (0, 20, True), (20, 0, False)])
def test_the_first_line_says_where_counting_words_does_as_well(
    proof: Proof, trial: Trial, gained: int, lost: int, said: bool
) -> None:
    shown = _with(trial, private=True, plain=True)
    pair = Compared(paired=Paired(gained=gained, lost=lost), changes={})
    alone = shown.alone.model_copy(update={"against": shown.alone.against | {"naive_bayes_private": pair}})
    found = answer(replace(proof.sanity, leaks=0), replace(shown, alone=alone))
    assert (found.decision, "counting words does as well" in found.headline) == ("yes", said)
    assert any("with no model at all" in reason for reason in found.reasons) == said


def test_a_curve_is_not_believed_far_beyond_what_was_tried(proof: Proof, trial: Trial) -> None:
    near, far = ((trial.train * times, trial.train * times / 2, trial.train * times * 2.0) for times in (4.0, 40.0))
    said = [
        answer(proof.sanity, replace(trial, curve=replace(trial.curve, rises=True, needed=needed))).missing
        for needed in (near, far)
    ]
    assert "takes 240 [120, 480]: about 180 are missing" in said[0]
    assert "cannot say: it would be more than 600" in said[1]


def test_records_that_were_not_tried_are_not_missing(proof: Proof, trial: Trial) -> None:
    curve = replace(trial.curve, rises=True, needed=(240.0, 120.0, 480.0))
    assert "about 40 are missing" in answer(replace(proof.sanity, train=200), replace(trial, curve=curve)).missing


def test_a_trial_tells_each_training_in_a_line_and_nothing_of_its_folders(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, notebook = save_tiny_base(tmp_path_factory.mktemp("base") / "base"), Notebook()
    prove(site, notebook, settings={"base.model": str(base), **SMALL})
    assert notebook.said[0] == "alone, 15 training records, epsilon 8"
    assert notebook.said[-1] == "4 parts together, 60 training records, no privacy"
    assert len(notebook.said) == 8


def test_what_cannot_be_tried_is_looked_at_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"pump {i}", "response": "ab"[i % 2]}) + "\n" for i in range(12)))
    found = prove(file, Silent())
    assert (found.trial, found.answer.decision) == (None, "more")
    assert document(found)["sanity"]["train"] == 9


def test_a_folder_of_sites_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one site's folder"):
        prove(write_sites(tmp_path / "sites", {"a": 5, "b": 5}), Silent())


def test_the_command_writes_page_and_file(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"text": f"pump {i} leaks"}) + "\n" for i in range(12)))
    done = yoriai("poc", file, "--out", tmp_path / "out")
    assert done.code == 0
    assert "nothing to try yet" in done.screen
    assert (tmp_path / "out" / "poc.json").exists()


def test_the_example_is_the_machine_with_the_most_work_orders() -> None:
    site = example_site()
    assert (site.shown, len(site.train), len(site.test)) == ("D", 731, 187)


def test_the_command_takes_records_or_the_example(tmp_path: Path) -> None:
    assert yoriai("poc").code == EXIT_BAD_INPUT
    assert yoriai("poc", tmp_path, "--example").code == EXIT_BAD_INPUT
