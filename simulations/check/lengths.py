"""How long records are in the base's tokens, what of them is cut, and whether the tokenizer suits their language."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.records.control_tokens import Tokenizer
from yoriai.client.records.encoding import encode_fitting
from yoriai.client.records.records import Record, SiteRecords
from yoriai.config import TaskSection
from yoriai.simulations.run.experiment import Experiment
from yoriai.simulations.run.fitted import Fitted

# Above it a token stands for less than two bytes. The packaged base takes 0.24 tokens a byte of English work orders,
# 0.33 to 0.40 of other European languages and of Russian, 0.60 to 0.83 of Japanese, Chinese, Thai and Korean, which it
# has no words of: there a character has three bytes, and most tokens are a piece of one.
POOR_TOKENS_PER_BYTE: Final = 0.5
_NO_LIMIT: Final = 1_000_000


@dataclass(frozen=True, eq=False)
class SiteLengths:
    """One site's records in tokens, as the task encodes them and before anything is cut.

    Attributes:
        train, test: (n,) and (m,) int64, tokens of each record, template included.
        test_targets: (m,) int64, target tokens of each.
        text_tokens, text_bytes: of the records' own texts, without template and labels.
    """

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    test_targets: NDArray[np.int64]
    text_tokens: int
    text_bytes: int

    @property
    def every(self) -> NDArray[np.int64]:
        """Training records, then test records."""
        return np.concatenate([self.train, self.test])

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
    whole = np.array([len(example.token_ids) for example in examples], np.int64)
    targets = np.array([int(example.loss_mask.sum()) for example in examples[len(site.train) :]], np.int64)
    texts = [text for record in records for text in _texts(record, task.kind)]
    return SiteLengths(
        name=site.name,
        train=whole[: len(site.train)],
        test=whole[len(site.train) :],
        test_targets=targets,
        text_tokens=sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts),
        text_bytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
    )


def length_limit(experiment: Experiment, fitted: Fitted) -> int:
    """Tokens that a record may have."""
    return min(experiment.job.task.max_tokens, fitted.session.base.context_tokens)


def distribution(lengths: NDArray[np.int64], limit: int) -> Distribution:
    """Of at least one record; lengths that occur, not means of two."""
    median, ninetieth, longest = np.quantile(lengths, (0.5, 0.9, 1.0), method="inverted_cdf")
    return Distribution(len(lengths), int(median), int(ninetieth), int(longest), int((lengths > limit).sum()))


def poorly_read(sites: Sequence[SiteLengths]) -> list[SiteLengths]:
    """Sites with whose texts the base's tokenizer does poorly."""
    return [site for site in sites if site.tokens_per_byte > POOR_TOKENS_PER_BYTE]


def _texts(record: Record, kind: str) -> list[str]:
    if record.messages is not None:
        return [text for _, text in record.messages]
    if record.text is not None:
        return [record.text]
    answer = [] if kind == "classify" else [record.response or ""]  # A label is matched, and not read.
    return [record.prompt or "", *answer]
