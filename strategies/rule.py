"""What a rule is, and the table of them: which factors train, and how a mean update becomes the next adapter.

The rules' own files do not import this one: they satisfy the protocol by shape, and the table below makes the type
checker compare them with it.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from yoriai.errors import ConfigError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.core import Core
from yoriai.strategies.factors import BaseFactors, Maps
from yoriai.strategies.fedavg import FedAvg
from yoriai.strategies.ffa import FFA


class Rule(Protocol):
    """One way to turn the sites' updates into the next adapter. Without state: all of it is in the arguments."""

    @property
    def name(self) -> str:
        """As in the job file's federation.rule."""

    @property
    def sum_suffices(self) -> bool:
        """Whether the weighted sum of the updates is all that the rule needs, so that single ones can stay hidden."""

    @property
    def factors(self) -> tuple[str, ...]:
        """All factors of the rule's states, trained or not, sorted."""

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """The factors that sites train, and send, in this round (counted from 0)."""

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """The adapter before the first round, which leaves the base model as it is; the same bits on every machine.

        Args:
            maps: module path -> (out, in) of each linear map to adapt.
            rank: from 1 to the least min(out, in).
            seed: public; it shapes the start and nothing else.
            base_factors: module path -> (U_r S_r (out, r), V_rᵀ (r, in)), for the rules that start from the base.

        Raises:
            AdapterError: the rank does not fit a map (which is named), or base factors are missing or misshapen.
        """

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """The next adapter.

        Args:
            current: all factors.
            mean_update: the weighted mean of the updates, or what a server optimiser made of it; it points downhill
                (it is added) and has the factors of `trainable(round_index)` only.

        Raises:
            AdapterError: names or shapes do not fit.
        """

    def to_peft(self, state: AdapterState) -> AdapterState:
        """The same map as factors A (r, in) and B (out, r) alone, for the same alpha and rank."""


_RULES: Mapping[str, Rule] = MappingProxyType({"core": Core(), "fedavg": FedAvg(), "ffa": FFA()})


def rule_names() -> tuple[str, ...]:
    """The known rules, sorted."""
    return tuple(sorted(_RULES))


def get_rule(name: str) -> Rule:
    """The rule of that name. Raises ConfigError listing the known ones, and the nearest, when there is none."""
    if name in _RULES:
        return _RULES[name]
    nearest = difflib.get_close_matches(name.lower(), rule_names(), n=1)
    raise ConfigError(
        "federation.rule is not a known rule",
        found=f'"{name[:40]}"',
        expected=f"one of {', '.join(rule_names())}",
        remedy=f'did you mean "{nearest[0]}"?' if nearest else "",
    )
