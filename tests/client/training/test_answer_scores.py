"""Token F1 and chrF against values worked out by another hand."""

import pytest

from yoriai.client.training.answer_scores import chrf, token_f1


@pytest.mark.parametrize(
    ("given", "expected", "score"),
    # sacreBLEU 2.6.0, CHRF().sentence_score(given, [expected]).score / 100
    [
        ("the cat sat", "the cat sat on the mat", 0.4959348409966008),
        ("The pump leaks oil", "the pump leaks", 0.8371370958251727),
        ("Bucket teeth worn, replaced two of five.", "Replaced two worn bucket teeth", 0.6538515310714395),
        ("油圧ポンプから油が漏れている", "油圧ポンプの油漏れ", 0.36425910416213986),
        ("the the the the", "the cat", 0.17868921870125237),
        ("ab", "abcd", 0.47169811320754707),
        ("aa", "ab", 0.25),
        ("abc", "xyz", 0.0),
        ("", "abc", 0.0),
        ("a", "a", 1.0),
    ],
)
def test_chrf_equals_sacrebleus(given: str, expected: str, score: float) -> None:
    assert chrf(given, expected) == pytest.approx(score, abs=1e-12)


def test_chrf_counts_recall_twice_and_each_ngram_once() -> None:
    """By hand: of "ab" against "abcd", precisions 2/2 and 1/1, recalls 2/4 and 1/3, so 5 * P * R / (4 * P + R)."""
    recall = (2 / 4 + 1 / 3) / 2
    assert chrf("ab", "abcd") == pytest.approx(5 * recall / (4 + recall))
    assert chrf("abcd", "ab") > chrf("ab", "abcd")


@pytest.mark.parametrize(
    ("given", "expected", "score"),
    [
        ("the pump leaks", "the pump leaks", 1.0),
        ("The pump, leaks!", "the pump leaks", 1.0),
        ("leaks pump the", "the pump leaks", 1.0),
        ("the pump", "the pump leaks oil", 2 * 2 / 6),
        ("pump pump pump", "the pump", 2 * 1 / 5),
        ("engine", "pump", 0.0),
        ("", "pump", 0.0),
        ("pump", "", 0.0),
        ("", "...", 1.0),
        ("油漏れ", "油圧", 2 * 1 / 5),
        ("ﾎﾟﾝﾌﾟ", "ポンプ", 1.0),
        ("हिन्दी शब्द", "हिन्दी", 2 * 1 / 3),
        ("ＡＢ１", "ab1", 1.0),
    ],
)
def test_token_f1_is_that_of_the_words_in_any_order(given: str, expected: str, score: float) -> None:
    assert token_f1(given, expected) == pytest.approx(score)


def test_a_text_is_all_there_is_of_itself_and_nothing_of_nothing() -> None:
    for text in ("", "   ", "x", "油", "a long answer, with 3 words more"):
        assert chrf(text, text) == 1.0
        assert token_f1(text, text) == 1.0
