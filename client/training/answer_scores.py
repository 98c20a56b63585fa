"""How near a given answer comes to the expected one, for answers that are too long to be given word for word.

Both scores lie between 0 and 1; 1 means the same words, or characters. They are written out here: sacreBLEU, which is
what is usually taken, brings lxml, regex and three more packages to every site, for what is twenty lines. Its values
are the tests'.
"""

import unicodedata
from collections import Counter
from typing import Final

_LONGEST_NGRAM: Final = 6
_BETA: Final = 2.0
# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, and Han with its extensions.
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def token_f1(given: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words, in any order (Rajpurkar et al. 2016, arXiv 1606.05250).

    Case, punctuation and the width of characters make no difference; articles do, for they are of one language. Each
    character of a script without spaces is a word. Two answers without a word are the same, 1.
    """
    said, wanted = Counter(_words(given)), Counter(_words(expected))
    if not said and not wanted:
        return 1.0
    return 2 * (said & wanted).total() / (said.total() + wanted.total())


def chrf(given: str, expected: str) -> float:
    """Character n-gram F-score, n up to 6, recall twice as important (Popović 2015, https://aclanthology.org/W15-3049).

    Precision and recall are averaged over the n for which both texts have n-grams, white space left out, as sacreBLEU
    does by default. Two empty answers are the same, 1.
    """
    said, wanted = "".join(given.split()), "".join(expected.split())
    if not said and not wanted:
        return 1.0
    precision = recall = 0.0
    orders = min(_LONGEST_NGRAM, len(said), len(wanted))
    for n in range(1, orders + 1):
        of_said, of_wanted = _ngrams(said, n), _ngrams(wanted, n)
        shared = (of_said & of_wanted).total()
        precision += shared / of_said.total()
        recall += shared / of_wanted.total()
    if not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


def _words(text: str) -> list[str]:
    """Runs of letters, marks and digits, and each character of a script without spaces by itself."""
    spaced = ""
    for character in unicodedata.normalize("NFKC", text).casefold():
        if any(first <= ord(character) <= last for first, last in _UNSPACED):
            spaced += f" {character} "
        else:
            spaced += character if unicodedata.category(character)[0] in "LMN" else " "
    return spaced.split()
