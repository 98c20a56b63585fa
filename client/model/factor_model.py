"""What trains on a frozen base, seen from training and measuring: factors go in, records pass, factors come out.

A part of the base never changes during a job; what it makes of a record is the record's *entering state*. It is
computed once and kept (`prepared.py`). The tail carries on from what the model reads of it, holds every trained factor,
and is all that training repeats.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.cores import one_core_each, torch_threads
from yoriai.client.base.pieces import Rows, Shape, filled, public_ids, rows_for, shape_of
from yoriai.client.records.encoding import Example
from yoriai.privacy.dp.record_gradients import RecordGradients
from yoriai.strategies.adapter import AdapterState

ENTER_AT_ONCE: Final = 64
"""Records whose entering states are computed at once, at most."""


class Recorder(Protocol):
    """A part of the tail whose factors' gradients go to `recorded_by`, by record, where that is not None."""

    recorded_by: RecordGradients | None


class FactorModel(ABC):
    """A base with factors on it. One of them serves every site of a simulation in turn.

    Attributes:
        base: frozen.
        tail: takes what is read of entering states; holds the factors that train.
        tail_threads: with which its passes are fastest on a CPU; None for as many as there are.
        state_width: entries of one row of an entering state.
        reading: another number whenever `read` would give something else of the same states.
        states_key: equal where two models have the same entering states of equal examples.
    """

    base: BaseModel
    tail: nn.Module
    tail_threads: int | None = None
    state_width: int
    reading: int = 0
    states_key: Hashable

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._rows: dict[Hashable, Rows] = {}

    @abstractmethod
    def factor_parameters(self) -> dict[str, nn.Parameter]:
        """Every factor's parameter by the name that AdapterState gives it, sorted."""

    @abstractmethod
    def check(self, state: AdapterState) -> None:
        """Raise AdapterError unless the state holds every factor of this model, of its shape, finite, in proportion."""

    @abstractmethod
    def check_output(self) -> None:
        """Raise TrainingError if, with the factors as loaded, public input gives values that are not finite."""

    @abstractmethod
    def shape(self, example: Example) -> Shape:
        """What the example's entering state is padded to when it trains."""

    @abstractmethod
    def state_rows(self, tokens: int) -> int:
        """Rows of the entering state of an example of so many tokens."""

    @abstractmethod
    def enter(self, examples: Sequence[Example], tokens: int) -> Tensor:
        """Entering states, each padded to those of `tokens` tokens. (B, state_rows(tokens), state_width)."""

    @property
    def read_width(self) -> int:
        """Entries of one row of what the tail takes."""
        return self.state_width

    def read(self, entering: Tensor) -> Tensor:
        """What the tail takes of entering states, of each row by itself: (B, R, state_width) -> (B, R, read_width)."""
        return entering

    def read_once(self, content: bytes, entering: Tensor) -> Tensor:
        """As `read`, of one example's kept state: (R, state_width) -> (R, read_width).

        Args:
            content: the example's, on which the state depends.
        """
        return self.read(entering[None])[0]

    @abstractmethod
    def detach(self) -> None:
        """Give the base back as it was; this object is of no use afterwards."""

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """The bare base, for as long as the context lasts."""
        yield

    def set_trainable(self, factors: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Let only these factors train; returns their parameters in the order of names."""
        trained = {}
        for name, parameter in self.factor_parameters().items():
            parameter.requires_grad_(name.rsplit(":", 1)[1] in factors)
            if parameter.requires_grad:
                trained[name] = parameter
        return trained

    @contextmanager
    def recording(self, gradients: RecordGradients) -> Iterator[None]:
        """As long as the context lasts, passes leave each record's gradient there, and none in the parameters."""
        recorders = list(self._recorders())
        for recorder in recorders:
            recorder.recorded_by = gradients
        try:
            yield
        finally:
            for recorder in recorders:
                recorder.recorded_by = None

    @abstractmethod
    def _recorders(self) -> Iterator[Recorder]:
        """What of the tail holds factors."""

    @torch.no_grad()
    def load(self, state: AdapterState) -> None:
        """Write every factor of `state` into the model. Raises AdapterError as `check`."""
        self.check(state)
        for name, parameter in self.factor_parameters().items():
            parameter.copy_(torch.from_numpy(np.array(state.tensors[name])))

    def state(self) -> AdapterState:
        """All factors as they stand, in fp32 on the CPU."""
        return AdapterState({n: p.detach().cpu().numpy().copy() for n, p in self.factor_parameters().items()})

    def rows(self, key: Hashable, find_out: Callable[[], Rows]) -> Rows:
        """What `find_out` found for the key; it is asked once."""
        if key not in self._rows:
            self._rows[key] = find_out()
        return self._rows[key]

    def keep_rows(self, key: Hashable, rows: Rows) -> None:
        """From here on `rows` answers this for the key."""
        self._rows[key] = rows

    def enter_rows(self, tokens: int, most: int) -> Rows:
        """How many records of that many tokens, `most` at most, may enter at once."""

        def find_out() -> Rows:
            ids = public_ids(most, tokens, int(self.base.model.config.vocab_size)).numpy().astype(np.int32)
            examples = [Example(row, np.zeros(tokens, bool)) for row in ids]

            def run(chosen: Sequence[int]) -> Tensor:
                return self.enter([examples[i] for i in chosen], tokens).flatten(1)

            with one_core_each(self.base.device):  # As it is done afterwards.
                return rows_for(run, tokens, most, self.base.device)

        return self.rows(("enter", tokens, most), find_out)

    def threads(self) -> AbstractContextManager[None]:
        """As many threads as suit the tail's passes, for as long as the context lasts."""
        return torch_threads(self.tail_threads)

    @contextmanager
    def stirred(self) -> Iterator[None]:
        """Public random factors, for as long as the context lasts: with some of them zero, gradients would be."""
        generator, kept = torch.Generator().manual_seed(0), {}
        with torch.no_grad():
            for name, parameter in self.factor_parameters().items():
                kept[name] = parameter.clone()
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.factor_parameters().items():
                    parameter.copy_(kept[name])

    def _ids(self, examples: Sequence[Example], tokens: int) -> Tensor:
        """Token ids on the base's device, padded with 0: (B, tokens) int64."""
        return filled([example.token_ids for example in examples], tokens).to(self.base.device)


def padded_tokens(example: Example, base: BaseModel) -> int:
    """Tokens to which an example is padded while its entering state is computed."""
    return shape_of(len(example.token_ids), 0, longest=base.context_tokens).tokens
