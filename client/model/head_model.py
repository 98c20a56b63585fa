"""A softmax head on conditioned states of the frozen base: all that trains is one matrix.

    x = (f_1(s_1) / |f_1(s_1)|, …, w / |w|) / √parts,   logits = H x / τ

s_i are the states that the job names, f_i their public conditioning (`conditioning.py`) and w, where the job asks for
it, the presence of the prompt's words in as many buckets. x has norm 1 at most, so the gradient of the loss below,
(p − y) xᵀ, has a norm of √2 at most, and needs no backward pass through the base. x is fixed for a whole job: the base
runs once a record. A job of another dimension, for instance one that also trains LoRA, has a model of its own.

Factors, by their names in an AdapterState: `head.STATE:M` (1, H) and `head.STATE:D` (q, H) of each state, fixed;
`head:H` (labels, parts), trained, zero at first. A state called `mean:24` is `mean-24` there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.pieces import Shape
from yoriai.client.base.states import FrozenStates, Place, places
from yoriai.client.model.factor_model import ENTER_AT_ONCE, FactorModel, padded_tokens
from yoriai.client.model.magnitude import check_factors, check_layout
from yoriai.client.records.encoding import Example
from yoriai.config import JobConfig
from yoriai.errors import TrainingError
from yoriai.privacy.dp.record_gradients import RecordGradients
from yoriai.strategies.adapter import AdapterState, tensor_name
from yoriai.strategies.head import HEAD_PATH

TEMPERATURE: Final = 0.05
_ONE: Final = Shape(1, 1)
_HEAD: Final = tensor_name(HEAD_PATH, "H")


def path_of(place: Place) -> str:
    """Under which a state's conditioning stands in an AdapterState."""
    return f"{HEAD_PATH}.{place.name.replace(':', '-')}"


@dataclass(frozen=True)
class HeadShape:
    """What a job's head is made of.

    Attributes:
        places: the states that it reads.
        width: entries of one state.
        directions: entries of one state after its conditioning.
        words: buckets of hashed words; 0 for none.
        labels: rows of the matrix.
    """

    places: tuple[Place, ...]
    width: int
    directions: int
    words: int
    labels: int

    @classmethod
    def of(cls, job: JobConfig, base: BaseModel) -> "HeadShape":
        """Raises BaseModelError if the base lacks a layer that the job names."""
        named = places(job.head.states, int(base.model.config.num_hidden_layers))
        return cls(named, base.width, job.head.directions, job.head.words, len(job.task.labels))

    @property
    def features(self) -> int:
        """Entries of x."""
        return len(self.places) * self.directions + self.words

    def factors(self) -> dict[str, tuple[int, int]]:
        """The shape of every factor by its name."""
        found = {_HEAD: (self.labels, self.features)}
        for place in self.places:
            found[tensor_name(path_of(place), "M")] = (1, self.width)
            found[tensor_name(path_of(place), "D")] = (self.directions, self.width)
        return dict(sorted(found.items()))

    def parts(self, entering: Tensor) -> list[Tensor]:
        """Entering states (n, places · width + words) -> each place's (n, width), then the words (n, words)."""
        return list(torch.split(entering, [self.width] * len(self.places) + [self.words], 1))

    def check(self, state: AdapterState) -> None:
        """Raise AdapterError unless the state holds these factors, of their shapes, finite and in proportion."""
        check_layout(state, self.factors())
        check_factors(state)


class _Conditioning(nn.Module):
    """From entering states to x; see the top of this file."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self._shape = shape
        self.means = nn.ParameterList(torch.zeros(1, shape.width) for _ in shape.places)
        self.onto = nn.ParameterList(torch.zeros(shape.directions, shape.width) for _ in shape.places)

    def forward(self, states: Tensor) -> Tensor:
        """(B, states and words) -> x (B, features)."""
        *read, words = self._shape.parts(states.float())
        found = [
            functional.normalize((state - mean) @ onto.T, dim=1)
            for state, mean, onto in zip(read, self.means, self.onto, strict=True)
        ]
        if self._shape.words:
            found.append(functional.normalize(words, dim=1))
        return torch.cat(found, 1) / math.sqrt(len(found))


class HeadTail(nn.Module):
    """From x to logits; see the top of this file."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.score = nn.Linear(shape.features, shape.labels, bias=False)
        nn.init.zeros_(self.score.weight)
        self.recorded_by: RecordGradients | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, features) -> logits (B, L)."""
        gradients, weight = self.recorded_by, self.score.get_parameter("weight")
        scores: Tensor = self.score(x[:, 0]) if gradients is None else gradients.linear(x[:, 0], weight)
        return scores / TEMPERATURE


class HeadModel(FactorModel):
    """The frozen base with a head that trains.

    Args:
        base: nothing is attached to it.
        shape: of the job.
    """

    tail_threads = 1  # A piece is done before another thread has woken.

    def __init__(self, base: BaseModel, shape: HeadShape) -> None:
        super().__init__(base)
        self.head_shape = shape
        self._states = FrozenStates(base, shape.places)
        self.state_width = self._states.width + shape.words
        self.states_key = ("head", shape.places, shape.words)
        self._conditioning = _Conditioning(shape).to(base.device)
        self.tail: HeadTail = HeadTail(shape).to(base.device)
        self._x: dict[bytes, Tensor] = {}

    def factor_parameters(self) -> dict[str, nn.Parameter]:
        """See FactorModel."""
        found: dict[str, Any] = {_HEAD: self.tail.score.weight}
        fixed = self._conditioning
        for place, mean, onto in zip(self.head_shape.places, fixed.means, fixed.onto, strict=True):
            found |= {tensor_name(path_of(place), "M"): mean, tensor_name(path_of(place), "D"): onto}
        return dict(sorted(found.items()))

    def check(self, state: AdapterState) -> None:
        """See HeadShape.check."""
        self.head_shape.check(state)

    @torch.no_grad()
    def load(self, state: AdapterState) -> None:
        """See FactorModel. All of a job's rounds have one conditioning, and x is read once."""
        before = [parameter.clone() for parameter in self._conditioning.parameters()]
        super().load(state)
        if not all(map(torch.equal, before, self._conditioning.parameters())):
            self.reading += 1
            self._x.clear()

    @property
    def read_width(self) -> int:
        """Entries of x."""
        return self.head_shape.features

    @torch.no_grad()
    def read(self, entering: Tensor) -> Tensor:
        """x of each row, by itself: in a product of many its last bits would be moved by the others."""
        with self.threads():
            return torch.stack([self._conditioning(row) for row in entering])

    def read_once(self, content: bytes, entering: Tensor) -> Tensor:
        """See FactorModel. x is kept for whoever has an equal record, and for other jobs of the same conditioning.

        Of each record once, in memory: 4 bytes an entry, and 1.7 kB for the tensor around them. 100,000 records of the
        1024 entries of a head with the default settings are 0.6 GB.
        """
        if content not in self._x:
            self._x[content] = super().read_once(content, entering)
        return self._x[content]

    @torch.no_grad()
    def check_output(self) -> None:
        """Raise TrainingError if, with the factors as loaded, a public text gives logits that are not finite."""
        if not bool(torch.isfinite(self.tail(self.read(self._public_states))).all()):
            raise TrainingError(
                "with this round's head the model computes values that are not finite",
                expected="finite logits for a few fixed tokens, before any record is looked at",
                remedy="lower the learning rates, or check the base model",
            )

    @cached_property
    def _public_states(self) -> Tensor:
        """What enters of a few fixed tokens. The base is frozen, and asked once."""
        return self.enter([Example(np.arange(1, 5, dtype=np.int32), np.zeros(4, bool))], 4)

    def shape(self, example: Example) -> Shape:
        """One position for every record, however long."""
        return _ONE

    def state_rows(self, tokens: int) -> int:
        """One, however many tokens."""
        return 1

    def enter(self, examples: Sequence[Example], tokens: int) -> Tensor:
        """The states of each example, then its words by bucket; see FactorModel.

        What trains asks for one position a record. Without states that are kept, each record then passes by itself,
        padded as it is when they are.
        """
        if tokens < max(len(example.token_ids) for example in examples):
            return torch.cat([self._enter_alone(example) for example in examples])
        lengths = torch.tensor([len(example.token_ids) for example in examples], device=self.base.device)
        states = self._states(self._ids(examples, tokens), lengths)
        presence = torch.from_numpy(np.stack([_presence(example, self.head_shape.words) for example in examples]))
        return torch.cat([states, presence.to(states)], 1)[:, None]

    def last_states(self, entering: Tensor) -> Tensor | None:
        """Of entering states (n, F) the last position's after the last layer, (n, H), if the head reads them."""
        parts = zip(self.head_shape.places, self.head_shape.parts(entering), strict=False)
        return next((part for place, part in parts if not place.mean), None)

    def _enter_alone(self, example: Example) -> Tensor:
        tokens = padded_tokens(example, self.base)
        ((piece, _),) = self.enter_rows(tokens, ENTER_AT_ONCE).cut([example])
        return self.enter(piece, tokens)[:1]

    def detach(self) -> None:
        """The base was never changed."""

    def _recorders(self) -> Iterator[HeadTail]:
        yield self.tail


def _presence(example: Example, buckets: int) -> np.ndarray:
    """1 in the bucket of each word, (buckets,) float32."""
    found = np.zeros(buckets, np.float32)
    if buckets:
        found[example.words % buckets] = 1.0
    return found
