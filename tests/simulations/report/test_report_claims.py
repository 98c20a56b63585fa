"""What a report claims, and what it does not."""

import re

import pytest

from tests.simulations.report_fixture import (
    changed,
    example_report,
    instruct_report,
    interrupted_report,
    language_model_report,
)
from yoriai.simulations.report.claims import claims, verdict
from yoriai.simulations.report.metrics import main_metric
from yoriai.simulations.report.report import Change, Compared, Paired, Score


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(20, 60, "gain"), (60, 20, "loss"), (40, 45, "open"), (40, 40, "open")]
)
def test_unpaired_verdict_asks_for_intervals_that_do_not_overlap(before: int, after: int, expected: str) -> None:
    assert verdict(Score.measured(100, accuracy=before / 100), Score.measured(100, accuracy=after / 100)) == expected


@pytest.mark.parametrize(
    # Two-sided sign test: 5 of 5 gives p = 0.0625, 6 of 6 gives 0.03125, 9 of 10 gives 0.021, 8 of 10 gives 0.109.
    ("gained", "lost", "expected"),
    [(5, 0, "open"), (6, 0, "gain"), (0, 6, "loss"), (9, 1, "gain"), (8, 2, "open"), (0, 0, "open")],
)
def test_paired_verdict_is_the_exact_sign_test(gained: int, lost: int, expected: str) -> None:
    same = Score.measured(100, accuracy=0.5)
    assert verdict(same, same, Paired(gained=gained, lost=lost)) == expected


def test_measure_without_interval_is_not_judged() -> None:
    assert verdict(Score(records=9, loss=3.0), Score(records=9, loss=1.0)) == "unmeasured"


def test_gain_is_claimed_only_where_the_intervals_show_it() -> None:
    shown = [sentence for sentence in claims(example_report()) if sentence.startswith("Shown:")]
    unshown = [sentence for sentence in claims(example_report()) if sentence.startswith("Not shown:")]
    assert any("a gain at B, C, D and E" in sentence for sentence in shown)
    assert any("at A (7 test records)" in sentence for sentence in unshown)
    assert not any(re.search(r"\bat A\b", sentence) for sentence in shown)


def test_result_below_the_commonest_label_is_said() -> None:
    assert "Not shown: an advantage over always giving the commonest label at A." in claims(example_report())


def test_worse_result_is_said_to_be_worse() -> None:
    report = example_report(compare=False)
    overall = report.overall | {"base": report.overall["federated"], "federated": report.overall["base"]}
    assert "which is worse" in claims(changed(report, overall=overall, paired=None))[0]


def test_worse_than_central_is_said() -> None:
    overall = example_report().overall | {"central": Score.measured(418, accuracy=0.9)}
    sentences = claims(changed(example_report(), overall=overall))
    assert any("all at one place 0.90" in one and "the federation is worse" in one for one in sentences)


def test_no_gain_is_claimed_for_a_measure_without_interval() -> None:
    sentences = claims(language_model_report())
    assert not any(sentence.startswith("Shown") for sentence in sentences)
    assert "no gain is claimed" in sentences[0]


def test_interrupted_run_claims_nothing() -> None:
    assert claims(interrupted_report()) == (
        "The run stopped before the federated adapter was evaluated, so nothing is claimed.",
    )


def test_main_metric_is_the_tasks_first_that_was_measured() -> None:
    assert main_metric(example_report()).key == "accuracy"
    assert main_metric(language_model_report()).key == "bits_per_byte"


def test_answers_that_come_nearer_are_measured_and_claimed_to_be_no_gain() -> None:
    (sentence,) = [one for one in claims(instruct_report()) if "chrF" in one]
    changes = "token F1 goes from 0.12 to 0.48 and chrF goes from 0.21 to 0.52"
    assert sentence.startswith(f"Measured: over all sites, {changes};")
    assert sentence.endswith("no gain is claimed.")
    assert not any("chrF" in one for one in claims(example_report()))


def test_where_no_answer_is_exact_the_change_in_bits_per_byte_leads() -> None:
    report, change = instruct_report(), Change(change=-0.22, low=-0.25, high=-0.19)
    against = {"base": Compared(changes={"exact_match": Change(change=0, low=0, high=0), "bits_per_byte": change})}
    sites = [one.model_copy(update={"changes": {"bits_per_byte": change}}) for one in report.sites]
    report = changed(report, against=against, sites=sites)
    assert main_metric(report).key == "bits_per_byte"
    sentences = claims(report)
    assert sentences[0].startswith("Shown: over all sites, bits per byte goes from 1.310 to 1.090; the change is")
    assert sentences[1] == "Shown: a gain at A, B, C, D and E, each on its own test records."
    assert any("no answer of any model is word for word the expected one" in one for one in sentences)
    assert not any("exact match" in one for one in sentences)


def test_a_single_exact_answer_lets_exact_match_lead() -> None:
    report = instruct_report()
    score = Score.measured(320, exact_match=1 / 320, bits_per_byte=1.09)
    report = changed(report, overall=report.overall | {"federated": score})
    assert main_metric(report).key == "exact_match"
    assert claims(report)[0].startswith("Not shown: over all sites, exact match goes from 0.00 [0.00, 0.01] to 0.00")


def test_of_bits_the_comparison_says_by_how_much_and_how_surely() -> None:
    report = instruct_report()
    alone = Score.measured(320, exact_match=0.0, bits_per_byte=1.107)
    against = {"local": Compared(changes={"bits_per_byte": Change(change=-0.017, low=-0.029, high=-0.005)})}
    sentences = claims(changed(report, overall=report.overall | {"local": alone}, against=against))
    told = "each site alone 1.107, federated 1.090 (-0.017 [-0.029, -0.005]): the federation is better."
    assert f"Compared: {told}" in sentences
