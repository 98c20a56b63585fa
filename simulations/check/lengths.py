"""How long records are in the base's tokens, what of them is cut, and whether the tokenizer suits their language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from yoriai.client.records.control_tokens import Tokenizer
from yoriai.client.records.encoding import encode_fitting
from yoriai.client.records.records import Record, SiteRecords
from yoriai.config import TaskSection

# Above it a token stands for less than two bytes. The packaged base takes 0.24 tokens a byte of English work orders,
# 0.33 to 0.40 of other European languages and of Russian, 0.60 to 0.83 of Japanese, Chinese, Thai and Korean, which it
# has no words of: there a character has three bytes, and most tokens are a piece of one.
POOR_TOKENS_PER_BYTE: Final = 0.5
_NO_LIMIT: Final = 1_000_000


@dataclass(frozen=True)
class SiteLengths:
    """One site's records in tokens, as the task encodes them and before anything is cut.

    Attributes:
        train, test: tokens of each record, template included.
        test_targets: target tokens of each test record.
        text_tokens, text_bytes: of the records' own texts, without template and labels.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    test_targets: tuple[int, ...]
    text_tokens: int
    text_bytes: int

    @property
    def every(self) -> tuple[int, ...]:
        """Training records, then test records."""
        return self.train + self.test

    @property
    def tokens_per_byte(self) -> float:
        """Of its texts; 0 where these are empty."""
        return self.text_tokens / self.text_bytes if self.text_bytes else 0.0


@dataclass(frozen=True)
class Distribution:
    """Of some records' lengths in tokens.

    Attributes:
        median, ninetieth, longest: lengths that half, nine of ten, and all of the records keep to.
        cut: records that are longer than the limit.
    """

    records: int
    median: int
    ninetieth: int
    longest: int
    cut: int


def site_lengths(site: SiteRecords, tokenizer: Tokenizer, task: TaskSection) -> SiteLengths:
    """Count a site's tokens. All of its records fit the task, whose kind is settled."""
    unbounded = task.model_copy(update={"max_tokens": _NO_LIMIT, "too_long": "cut"})
    records = (*site.train, *site.test)
    examples = encode_fitting(records, tokenizer, unbounded, context_tokens=_NO_LIMIT).examples
    whole = tuple(len(example.token_ids) for example in examples)
    targets = tuple(int(example.loss_mask.sum()) for example in examples[len(site.train) :])
    texts = [text for record in records for text in _texts(record, task.kind)]
    return SiteLengths(
        train=whole[: len(site.train)],
        test=whole[len(site.train) :],
        test_targets=targets,
        text_tokens=sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts),
        text_bytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
    )


def distribution(lengths: Sequence[int], limit: int) -> Distribution:
    """Of at least one record; lengths that occur, not means of two."""
    median, ninetieth, longest = np.quantile(lengths, (0.5, 0.9, 1.0), method="inverted_cdf")
    cut = sum(length > limit for length in lengths)
    return Distribution(len(lengths), int(median), int(ninetieth), int(longest), cut)


def poorly_read(sites: Mapping[str, SiteLengths]) -> list[str]:
    """Sites with whose texts the base's tokenizer does poorly."""
    return [name for name, site in sites.items() if site.tokens_per_byte > POOR_TOKENS_PER_BYTE]


def _texts(record: Record, kind: str) -> list[str]:
    if record.messages is not None:
        return [text for _, text in record.messages]
    if record.text is not None:
        return [record.text]
    answer = [] if kind == "classify" else [record.response or ""]  # A label is matched, and not read.
    return [record.prompt or "", *answer]
