"""One text, asked of the base and of what was trained on it: the answers side by side."""

from dataclasses import dataclass

from torch import Tensor

from yoriai.client.records.encoding import Example, encode
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import LabelWords
from yoriai.client.session.loading import Trained
from yoriai.config import TaskSection


@dataclass(frozen=True)
class Answers:
    """What both say.

    Attributes:
        base, adapted: a label, or what is written.
        probabilities: of each label, the base's and the adapted model's; the adapted one's likeliest first. Empty where
            the task is to write.
    """

    base: str
    adapted: str
    probabilities: dict[str, tuple[float, float]]


def ask(trained: Trained, text: str, *, max_new_tokens: int = 64) -> Answers:
    """Ask both.

    Raises:
        RecordError: the text gives no token.
        ConfigError: the answer leaves no room for it.
    """
    if not trained.labels:
        adapted = trained.generate(text, max_new_tokens=max_new_tokens)
        with trained.untouched():
            return Answers(trained.generate(text, max_new_tokens=max_new_tokens), adapted, {})
    adapted_row, base_row = trained.probabilities([text])[0], _of_base(trained, text)
    order = adapted_row.argsort(descending=True, stable=True).tolist()
    labels = trained.labels
    return Answers(
        labels[int(base_row.argmax())],
        labels[order[0]],
        {labels[place]: (float(base_row[place]), float(adapted_row[place])) for place in order},
    )


def _of_base(trained: Trained, text: str) -> Tensor:
    """The bare base's probabilities, by its labels' own words: (labels,)."""
    if not trained.has_head:
        with trained.untouched():
            return trained.probabilities([text])[0]
    section = TaskSection(
        kind="classify", template=trained.task["template"], labels=trained.labels, max_tokens=trained.task["max_tokens"]
    )
    return LabelWords.untouched(trained.base, section).of_examples([_example(trained, text, section)])[0].softmax(0)


def _example(trained: Trained, text: str, section: TaskSection) -> Example:
    record = Record(prompt=text, response=trained.labels[0])
    return encode([record], trained.base.tokenizer, section, context_tokens=trained.base.context_tokens).examples[0]
