"""Words of a text, and what they hash to."""

import numpy as np
import pytest

from yoriai.client.records.words import no_words, word_hashes, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pump LEAKS, pump-2!", ["pump", "leaks", "pump", "2"]),
        ("Größe ＡＢＣ ﬁlter", ["größe", "abc", "filter"]),
        ("油圧ポンプ", ["油圧", "圧ポ", "ポン", "ンプ"]),
        ("油 pump油圧x", ["油", "pump", "油圧", "x"]),
        ("ไม่มี", ["ไม", "ม่", "่ม", "มี"]),
        ("насос Αντλία", ["насос", "αντλία"]),
        ("...", []),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_and_pairs_where_there_are_no_spaces(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_hashes_are_of_distinct_words_and_say_nothing_of_their_order() -> None:
    np.testing.assert_array_equal(word_hashes("pump leaks pump"), word_hashes("LEAKS pump"))
    assert len(word_hashes("pump leaks pump")) == 2
    # The first four bytes of SHA-256("pump"), little-endian: another version must find the same ones.
    assert word_hashes("pump").tolist() == [1178345483]


def test_a_text_without_words_has_none() -> None:
    np.testing.assert_array_equal(word_hashes("?!"), no_words())


def test_a_lone_surrogate_is_a_word_like_another() -> None:
    assert len(word_hashes("\ud800x")) == 1
