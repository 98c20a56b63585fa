"""Server optimisers: what the coordinator makes of a mean update before the rule adds it. Pure steps, no hidden state.

The mean update u points downhill (it is minus the pseudo-gradient of the paper), so a step is added to the adapter.

    none      step = lr · u
    damped    step = lr · (u − 0.9 (u v) vᵀ), with v the first right singular vector of the first update's matrix
    momentum  v ← β v + u;                                   step = lr · v
    adam      m ← β₁ m + (1 − β₁) u;  v ← β₂ v + (1 − β₂) u²;            step = lr · m̂ / (sqrt(v̂) + ε)
    yogi      m as in adam;           v ← v − (1 − β₂) sign(v − u²) u²;  step = lr · m̂ / (sqrt(v) + ε)

with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ), and yogi's v of an entry starting as that entry's first u² that is not zero.
The paper's FedAdam and FedYogi leave the corrections out, start v at a constant and use a large ε (its τ, 1e-3); with
tens of rounds in place of thousands, such a v would never warm up, and τ would have to be tuned to the updates' scale.

damped is for heads: what all records have in common is the longest direction of their features by far. It tells no more
than how common each label is, and does not settle under steps that suit the others. A head's first update, the sums of
features by label, shows it (`client/model/tasks.py`); that of an adapter need not, so no other rule takes it.

Post-processing of the opened mean: no cost to the privacy budget. Under noise, adam's v̂ is mostly the noise's variance,
equal over a factor's entries, so that it acts as momentum with a step of about lr an entry, whatever the clip_norm.

References: Reddi et al. 2021, Adaptive federated optimization (arXiv 2003.00295), algorithm 2; Zaheer et al. 2018,
Adaptive methods for nonconvex optimization (NeurIPS 2018), algorithm 2.
"""

import difflib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError, CheckpointError, ConfigError
from yoriai.strategies.adapter import AdapterState, difference, elementwise, scaled, zeros_like
from yoriai.strategies.state_encoding import decode, encode

FORMAT = "yoriai-server-optimizer"
VERSION = "1"
KINDS = ("none", "damped", "momentum", "adam", "yogi")
OF_ADAPTERS = ("none", "momentum", "adam", "yogi")


@dataclass(frozen=True)
class OptState:
    """Where an optimiser stands. Moments have the names and shapes of the updates, in float32, so that a state read
    back from a checkpoint goes on to the same bits.

    Args:
        kind: the optimiser it belongs to.
        steps: steps taken.
        first: v of momentum, m of adam and yogi, the first update of damped.
        second: v of adam and yogi.
    """

    kind: str
    steps: int = 0
    first: AdapterState | None = None
    second: AdapterState | None = None

    def with_first(self, moment: AdapterState) -> Self:
        """The same state with another first moment, as when a rule has taken it into a new basis.

        Raises:
            AdapterError: this optimiser keeps no first moment, or the names or shapes are not those of the present one.
        """
        if self.first is None:
            raise AdapterError(f"the server optimiser {self.kind} keeps no first moment to replace")
        difference(moment, self.first)  # Only for its check of names and shapes.
        return replace(self, first=moment)

    def to_bytes(self) -> bytes:
        """A safetensors file: moments as "first/…" and "second/…", kind and steps in the metadata."""
        moments = {"first": self.first, "second": self.second}
        tensors = {f"{m}/{name}": t for m, state in moments.items() if state for name, t in state.tensors.items()}
        metadata = {"format": FORMAT, "version": VERSION, "kind": self.kind, "steps": str(self.steps)}
        return encode(tensors, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`, exact to the bit.

        Raises:
            CheckpointError: the bytes are not whole, or not a state of one of the optimisers.
        """
        try:
            tensors, metadata = decode(data, format_name=FORMAT, version=VERSION)
            moments: dict[str, AdapterState | None] = {"first": None, "second": None}
            for moment in {name.partition("/")[0] for name in tensors}:
                prefix = f"{moment}/"
                part = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                moments[moment] = AdapterState(part)
            state = cls(kind=metadata["kind"], steps=int(metadata["steps"]), **moments)
        except (AdapterError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                "the server optimiser's stored state cannot be read",
                found=error.what if isinstance(error, AdapterError) else type(error).__name__,
                remedy="resume from an earlier round",
            ) from error
        held = (state.first is not None, state.second is not None)
        if state.steps < 0 or _MOMENTS.get(state.kind) != held:
            raise CheckpointError("the server optimiser's stored state does not fit its kind", found=state.kind[:40])
        return state


_MOMENTS = {
    "none": (False, False),
    "damped": (True, False),
    "momentum": (True, False),
    "adam": (True, True),
    "yogi": (True, True),
}


class ServerOptimizer(Protocol):
    """A pure step from (mean update, state) to (step, state)."""

    @property
    def kind(self) -> str:
        """As in the job file's federation.server_optimizer."""

    def init(self, update: AdapterState) -> OptState:
        """The state before the first step, for updates of these names and shapes; the values are not used."""

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """The step to add to the adapter, and the state after it.

        Raises:
            AdapterError: the update is not finite, which would poison the moments for good, or has other names or
                shapes than those of `init`.
            CheckpointError: the state is another optimiser's.
        """


@dataclass(frozen=True)
class NoOptimizer:
    """The mean update, scaled. At learning_rate 1 this is federated averaging."""

    kind: ClassVar[str] = "none"

    def init(self, update: AdapterState) -> OptState:
        """Nothing to remember but the number of steps."""
        return OptState(self.kind)

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """lr · u."""
        _check(self.kind, mean_update, state)
        return scaled(mean_update, learning_rate), OptState(self.kind, state.steps + 1)


@dataclass(frozen=True)
class Damped:
    """The mean update, scaled, and shortened along the direction in which the first one was longest.

    Of each factor's matrix by itself: one row a label, say, and one column a feature; the direction is one of columns.
    """

    share: float = 0.1
    kind: ClassVar[str] = "damped"

    def init(self, update: AdapterState) -> OptState:
        """No update yet."""
        return OptState(self.kind, first=zeros_like(update))

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """lr · (u − (1 − share) (u v) vᵀ)."""
        first, _ = _check(self.kind, mean_update, state)
        if state.steps == 0:
            first = elementwise(lambda _, u: u, first, mean_update)
        return scaled(elementwise(self._shortened, first, mean_update), learning_rate), OptState(
            self.kind, state.steps + 1, first
        )

    def _shortened(self, first: NDArray[np.float64], update: NDArray[np.float64]) -> NDArray[np.float64]:
        if not first.any():
            return update
        direction = _longest(first.tobytes(), first.shape)
        return update - (1.0 - self.share) * np.outer(update @ direction, direction)


@lru_cache(maxsize=4)
def _longest(matrix: bytes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The direction of columns, (n,), along which a matrix (m, n) is longest: a run asks for one in all of its rounds.

    Args:
        matrix: its float64 values, row by row.
    """
    found: NDArray[np.float64] = np.linalg.svd(np.frombuffer(matrix).reshape(shape), full_matrices=False)[2][0]
    return found


@dataclass(frozen=True)
class Momentum:
    """Heavy-ball momentum, undamped and without bias correction: under a steady update the steps grow from lr · u to
    lr · u / (1 − β). At β = 0.9, take a learning rate ten times smaller than without it.
    """

    beta: float = 0.9
    kind: ClassVar[str] = "momentum"

    def __post_init__(self) -> None:
        _check_fraction("federation.server_momentum", self.beta)

    def init(self, update: AdapterState) -> OptState:
        """v = 0."""
        return OptState(self.kind, first=zeros_like(update))

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """v ← β v + u; lr · v."""
        first, _ = _check(self.kind, mean_update, state)
        velocity = elementwise(lambda v, u: self.beta * v + u, first, mean_update)
        return scaled(velocity, learning_rate), OptState(self.kind, state.steps + 1, velocity)


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1): the first step is lr in every entry but zeros."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    kind: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        _check_adaptive(self.kind, self.beta1, self.beta2, self.epsilon)

    def init(self, update: AdapterState) -> OptState:
        """m = v = 0."""
        return OptState(self.kind, first=zeros_like(update), second=zeros_like(update))

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """lr · m̂ / (sqrt(v̂) + ε)."""
        old_first, old_second = _check(self.kind, mean_update, state)
        first = elementwise(lambda m, u: self.beta1 * m + (1.0 - self.beta1) * u, old_first, mean_update)
        second = elementwise(lambda v, u: self.beta2 * v + (1.0 - self.beta2) * u * u, old_second, mean_update)
        steps = state.steps + 1
        m_share, v_share = 1.0 - self.beta1**steps, 1.0 - self.beta2**steps
        direction = elementwise(lambda m, v: (m / m_share) / (np.sqrt(v / v_share) + self.epsilon), first, second)
        return scaled(direction, learning_rate), OptState(self.kind, steps, first, second)


@dataclass(frozen=True)
class Yogi:
    """Yogi: adam whose v falls by no more than (1 − β₂) u², so that after a large update small ones do not soon let the
    steps grow again.

    Per entry, v starts as the first u² that is not zero: the first step is lr in every entry but zeros, as adam's is,
    and needs no correction of v. Starting at a first u² of zero (A of fedavg, while B is zero) would leave v to grow
    from nothing. Where updates grow after the first by orders of magnitude, v follows slowly, with steps of up to
    lr / sqrt(1 − β₂); hence FedYogi's β₂ of 0.99, not 0.999.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    kind: ClassVar[str] = "yogi"

    def __post_init__(self) -> None:
        _check_adaptive(self.kind, self.beta1, self.beta2, self.epsilon)

    def init(self, update: AdapterState) -> OptState:
        """m = v = 0, where v = 0 stands for an entry that has not moved yet."""
        return OptState(self.kind, first=zeros_like(update), second=zeros_like(update))

    def step(
        self, mean_update: AdapterState, state: OptState, *, learning_rate: float
    ) -> tuple[AdapterState, OptState]:
        """lr · m̂ / (sqrt(v) + ε)."""
        old_first, old_second = _check(self.kind, mean_update, state)
        first = elementwise(lambda m, u: self.beta1 * m + (1.0 - self.beta1) * u, old_first, mean_update)
        second = elementwise(self._second, old_second, mean_update)
        steps = state.steps + 1
        m_share = 1.0 - self.beta1**steps
        direction = elementwise(lambda m, v: (m / m_share) / (np.sqrt(v) + self.epsilon), first, second)
        return scaled(direction, learning_rate), OptState(self.kind, steps, first, second)

    def _second(self, v: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
        """v − (1 − β₂) sign(v − u²) u², or u² where v is still zero; it never falls back to zero."""
        squared = u * u
        return np.where(v == 0, squared, v - (1.0 - self.beta2) * np.sign(v - squared) * squared)


def server_optimizer(kind: str, *, momentum: float = 0.9) -> ServerOptimizer:
    """The optimiser of that kind; `momentum` is β of momentum and β₁ of adam and yogi, and is not used by none.

    Raises:
        ConfigError: an unknown kind, or a momentum outside [0, 1).
    """
    if kind == "none":
        return NoOptimizer()
    if kind == "damped":
        return Damped()
    if kind == "momentum":
        return Momentum(momentum)
    if kind == "adam":
        return Adam(momentum)
    if kind == "yogi":
        return Yogi(momentum)
    nearest = difflib.get_close_matches(kind.lower(), KINDS, n=1)
    raise ConfigError(
        "federation.server_optimizer is not a known optimiser",
        found=f'"{kind[:40]}"',
        expected=f"one of {', '.join(KINDS)}",
        remedy=f'did you mean "{nearest[0]}"?' if nearest else "",
    )


def _check(kind: str, mean_update: AdapterState, state: OptState) -> tuple[AdapterState, AdapterState]:
    """The moments of a state of this kind (where it keeps none, the update, which the caller then leaves unused)."""
    if state.kind != kind:
        raise CheckpointError("a server optimiser was given another one's state", found=state.kind, expected=kind)
    mean_update.check_finite()
    return state.first or mean_update, state.second or mean_update


def _check_adaptive(kind: str, beta1: float, beta2: float, epsilon: float) -> None:
    _check_fraction("federation.server_momentum", beta1)
    _check_fraction(f"beta2 of the server's {kind}", beta2)
    if not epsilon > 0:
        raise ConfigError(f"epsilon of the server's {kind}", found=str(epsilon), expected="above 0")


def _check_fraction(what: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ConfigError(what, found=str(value), expected="from 0 to below 1")
