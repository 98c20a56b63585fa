"""From what a round brought to the next adapter: one step of the server optimiser around the rule."""

from functools import partial
from typing import cast

from yoriai.config import FederationSection, JobConfig
from yoriai.server.round.registry import Checkpoint, FactorGroup, factor_group_of
from yoriai.server.round.round_aggregate import Aggregate, RoundAggregate
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.learning_rate_schedule import schedule_factor
from yoriai.strategies.robust import aggregate
from yoriai.strategies.rule import EachRule, SumRule
from yoriai.strategies.server_opt import OptState, server_optimizer


def take_server_step(
    job: JobConfig, rule: SumRule | EachRule, checkpoint: Checkpoint, collected: RoundAggregate
) -> tuple[AdapterState, FactorGroup]:
    """The next adapter, and the factor group's state after this round.

    Raises:
        AdapterError: the updates do not fit the adapter.
        CheckpointError: the stored state of the optimiser is another one's.
    """
    before, index = checkpoint.adapter, checkpoint.next_round
    if not rule.sum_suffices:
        return cast(EachRule, rule).combine_each(before, collected.updates or {}, index), FactorGroup()
    rule = cast(SumRule, rule)
    federation = job.federation
    optimizer = server_optimizer(federation.server_optimizer, momentum=federation.server_momentum)
    stored = checkpoint.factor_group(factor_group_of(rule, index)).optimizer_state
    state = OptState.from_bytes(stored) if stored else optimizer.init(collected.mean_update)
    step, state = optimizer.step(collected.mean_update, state, learning_rate=_learning_rate(job, index))
    after = rule.combine(before, step, index)
    if state.first is not None:
        state = state.with_first(rule.carried(state.first, before, after))
    return after, FactorGroup(state.to_bytes(), collected.next_range)


def aggregation_of(federation: FederationSection) -> Aggregate | None:
    """The robust rule that the job asks for in place of the weighted mean."""
    if federation.aggregation == "mean":
        return None
    return partial(
        aggregate,
        federation.aggregation,
        trim_fraction=federation.trim_fraction,
        byzantine_sites=federation.byzantine_sites,
    )


def _learning_rate(job: JobConfig, round_index: int) -> float:
    federation = job.federation
    rate = federation.server_learning_rate
    if job.privacy.noise == "none" and federation.server_learning_rate_without_noise is not None:
        rate = federation.server_learning_rate_without_noise
    return rate * schedule_factor(federation.schedule, round_index, federation.rounds)
