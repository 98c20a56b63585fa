"""What a rule is, and the table of them: which factors train, and how the updates become the next adapter.

The rules' own files do not import this one: they satisfy the protocol by shape, and the table below makes the type
checker compare them with it.

Rules from outside come from installed packages, by the entry point group `yoriai.rules`: the name is the rule's, the
value is an object that satisfies the protocol, or a class that makes one without arguments. They run inside the
coordinator and at every site that has them, so installing one is as much a matter of trust as installing Yoriai.
A package is imported when its rule is asked for, and at no other time.
"""

import difflib
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Protocol, cast

from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.core import Core
from yoriai.strategies.factors import BaseFactors, Maps
from yoriai.strategies.fedavg import FedAvg
from yoriai.strategies.fedex import FedEx
from yoriai.strategies.fedsvd import FedSVD
from yoriai.strategies.ffa import FFA
from yoriai.strategies.flora import FLoRA
from yoriai.strategies.head import Head
from yoriai.strategies.rolora import RoLoRA
from yoriai.strategies.server_opt import KINDS

GROUP = "yoriai.rules"
FACTORS = ("A", "B", "R", "U", "W")
CYCLE = 2
"""The trained factors of every rule recur after at most as many rounds."""


class Rule(Protocol):
    """One way to turn the sites' updates into the next adapter. Without state: all of it is in the arguments.

    This is what all rules have in common; each one is a `SumRule` or an `EachRule` beside.
    """

    @property
    def name(self) -> str:
        """As in the job file's federation.rule."""

    @property
    def sum_suffices(self) -> bool:
        """Whether the weighted sum of the updates is all that the rule needs, so that single ones can stay hidden."""

    @property
    def factors(self) -> tuple[str, ...]:
        """All factors of the rule's states, trained or not, sorted."""

    @property
    def moving(self) -> tuple[str, ...]:
        """The factors that may change during a job, sorted; the others travel once, with the offer."""

    @property
    def server_optimizers(self) -> tuple[str, ...]:
        """The kinds of server optimiser that go with the rule, out of `server_opt.KINDS`."""

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """The factors that sites train, and send, in this round (counted from 0)."""

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """The adapter before the first round, which leaves the base model as it is; the same bits on every machine.

        Rules that start from a QR or an SVD (fedsvd, core) keep that promise only for what travels as bytes.

        Args:
            maps: module path -> (out, in) of each linear map to adapt.
            rank: from 1 to the least min(out, in).
            seed: public; it shapes the start and nothing else.
            base_factors: module path -> (U_r S_r (out, r), V_rᵀ (r, in)), for the rules that start from the base.

        Raises:
            AdapterError: the rank does not fit a map (which is named), or base factors are missing or misshapen.
        """

    def verify(self, offered: AdapterState, state: AdapterState) -> None:
        """What a site checks of a round's adapter, knowing only the one that came with the offer.

        Raises:
            AdapterError: no honest coordinator gets from `offered` to `state` by this rule.
        """

    def to_peft(self, state: AdapterState) -> AdapterState:
        """The same map as factors A (R, in) and B (out, R) alone, for the same scale alpha / rank.

        R is the job's rank, except for rules whose products outgrow it.
        """


class SumRule(Rule, Protocol):
    """A rule that the weighted mean of the updates is enough for."""

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """The next adapter.

        Args:
            current: all factors.
            mean_update: the weighted mean of the updates, or what a server optimiser made of it; it points downhill
                (it is added) and has the factors of `trainable(round_index)` only.

        Raises:
            AdapterError: names or shapes do not fit.
        """

    def carried(self, moment: AdapterState, before: AdapterState, after: AdapterState) -> AdapterState:
        """A server optimiser's first moment, taken from the basis of one adapter into that of the next.

        The moment itself, unless `combine` changed what the trained factors' entries mean.
        """


class EachRule(Rule, Protocol):
    """A rule that needs every site's update, and so cannot go with secure aggregation."""

    def combine_each(
        self, current: AdapterState, updates: Mapping[str, tuple[float, AdapterState]], round_index: int
    ) -> AdapterState:
        """The next adapter.

        Args:
            current: all factors.
            updates: weight and update by site; the updates have the factors of `trainable(round_index)` only.

        Raises:
            AdapterError: names or shapes do not fit, a weight is negative or not finite, or all are zero.
        """


_BUILT_IN: tuple[SumRule | EachRule, ...] = (Core(), FedAvg(), FedEx(), FedSVD(), FFA(), FLoRA(), RoLoRA())
_HEAD: SumRule = Head()
_RULES: Mapping[str, SumRule | EachRule] = MappingProxyType({rule.name: rule for rule in _BUILT_IN})


def rule_names() -> tuple[str, ...]:
    """The rules built in and those of installed packages, sorted; nothing is imported, so the latter may be broken."""
    return tuple(sorted({*_RULES, *(claim.name for claim in _claims(tuple(sys.path)))}))


def built_in_rules() -> tuple[SumRule | EachRule, ...]:
    """The rules of this package alone, sorted by name: what can be asked about without importing a stranger's code."""
    return _BUILT_IN


def get_rule(name: str) -> SumRule | EachRule:
    """The rule of that name, built in or from an installed package.

    Raises:
        ConfigError: there is none (it lists the known ones, and the nearest), more than one package claims the name,
            or the package's rule cannot be loaded or does not satisfy the protocol (all faults are listed).
    """
    claims = tuple(claim for claim in _claims(tuple(sys.path)) if claim.name == name)
    if name in _RULES and not claims:
        return _RULES[name]
    if claims:
        return _from_outside(name, claims)
    nearest = difflib.get_close_matches(name.lower(), rule_names(), n=1)
    raise ConfigError(
        "federation.rule is not a known rule",
        found=f'"{name[:40]}"',
        expected=f"one of {', '.join(rule_names())}",
        remedy=f'did you mean "{nearest[0]}"?' if nearest else "",
    )


def rule_of(job: JobConfig) -> SumRule | EachRule:
    """How the job's updates are summed: by its rule, or as a head where that is what trains. Raises as `get_rule`."""
    return _HEAD if job.trains_head else get_rule(job.federation.rule)


def largest_update(rule: Rule, state: AdapterState) -> int:
    """Entries that a site sends in a round of this rule, at most."""
    return max(state.select(rule.trainable(index)).n_params for index in range(CYCLE))


@cache
def _claims(_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What installed packages offer. Read once for each path: to read every package's metadata takes milliseconds."""
    return tuple(entry_points(group=GROUP))


def _from_outside(name: str, claims: tuple[EntryPoint, ...]) -> SumRule | EachRule:
    """The one rule that packages offer by this name, loaded and checked."""
    packages = " and ".join(sorted(_package(claim) for claim in claims))
    if name in _RULES or len(claims) > 1:
        raise ConfigError(
            f'the rule "{name}" is {"built in" if name in _RULES else "claimed more than once"}',
            found=f"an entry point of that name in the group {GROUP} of {packages}",
            expected="one rule a name",
            remedy="uninstall that package" if len(claims) == 1 else "uninstall all but one of them",
        )
    where = f"the entry point {name} = {claims[0].value} in the group {GROUP} of {packages}"
    remedy = "install a version of that package that goes with this one of Yoriai, or take another rule"
    try:
        loaded = claims[0].load()
        rule = loaded() if isinstance(loaded, type) else loaded
        faults = _faults(name, rule)
    except Exception as error:  # Whatever a stranger's import or property raises; its text may quote anything.
        raise ConfigError(f"{where} fails to load", found=type(error).__name__, remedy=remedy) from error
    if faults:
        raise ConfigError(
            f"{where} is not a rule",
            found="; ".join(faults),
            expected="every member of Rule, and those of SumRule or of EachRule",
            remedy=remedy,
        )
    return cast(SumRule | EachRule, rule)


def _package(entry_point: EntryPoint) -> str:
    """The package that brings it, in words; an entry point made by hand has none."""
    return f"the package {entry_point.dist.name}" if entry_point.dist else "an unknown package"


def _faults(name: str, rule: object) -> list[str]:
    """What keeps an object from being a rule of that name, each fault in a clause."""
    faults = []
    if (found := getattr(rule, "name", None)) != name:
        faults.append(f"name is {found!r:.40} and not the entry point's")
    for member, allowed in (("factors", FACTORS), ("moving", FACTORS), ("server_optimizers", KINDS)):
        values = getattr(rule, member, None)
        if not (isinstance(values, tuple) and values and set(values) <= set(allowed)):
            faults.append(f"{member} is {values!r:.60} and not a tuple out of {', '.join(allowed)}")
    suffices = getattr(rule, "sum_suffices", None)
    if not isinstance(suffices, bool):
        faults.append(f"sum_suffices is {suffices!r:.40} and neither True nor False")
    kind = SumRule if suffices else EachRule
    for method in sorted(member for member in dir(kind) if inspect.isfunction(getattr(kind, member))):
        if not method.startswith("_"):
            faults.extend(_method_faults(rule, method, inspect.signature(getattr(kind, method))))
    return faults


def _method_faults(rule: object, method: str, wanted: inspect.Signature) -> list[str]:
    """Nothing if the rule can be called as the protocol's method is."""
    member = getattr(rule, method, None)
    if not callable(member):
        return [f"{method} is missing"]
    arguments = tuple(wanted.parameters)[1:]  # Without self.
    try:
        inspect.signature(member).bind(*arguments)
    except TypeError:
        return [f"{method} does not take ({', '.join(arguments)})"]
    return []
