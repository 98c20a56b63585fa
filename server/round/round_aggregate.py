"""From the replies of a round to the mean of its updates: in the clear, or as a sum that alone can be opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yoriai import wire
from yoriai.errors import AdapterError, ConfigError, RoundError, WireError
from yoriai.privacy.secagg import Opened, WindowTerms
from yoriai.privacy.secagg.summing import Masking
from yoriai.server.round.messenger import STRANGE, UNEXPECTED
from yoriai.server.round.round_sums import RoundSum
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rank_block import block_mean, check_block
from yoriai.strategies.robust import Updates, norm_bounded
from yoriai.terminal import one_line

Replies = Mapping[str, wire.Reply]

Aggregate = Callable[[Updates], AdapterState]
"""What a robust rule makes of updates, in place of their weighted mean."""

Place = tuple[int, int | None]
"""The window that a message of secure aggregation is of, and its slot; None while the window is opened."""

Exchange = Callable[[str, Mapping[str, bytes]], tuple[Replies, Mapping[str, str]]]
"""Sends each site a stage's bytes; gives the replies that came, and why the others did not."""


@dataclass(frozen=True)
class RoundAggregate:
    """What a round brought.

    Attributes:
        mean_update: weighted by the roster; the factors that trained.
        answered: sites whose update is in it.
        missing: the reason of every site asked whose update is not.
        clipped: coordinates that the public range clipped, over all sites; None where there is no range.
        next_range: public range of the next round; None where there is none.
        updates: what the mean is of; None with secure aggregation, which opens no single update.
    """

    mean_update: AdapterState
    answered: tuple[str, ...]
    missing: dict[str, str]
    clipped: int | None = None
    next_range: float | None = None
    updates: Updates | None = None


class VoidRound(RoundError):
    """A round of secure aggregation with too few sites. Nothing opened.

    Args:
        masked: whether sites may have masked, and so released, their updates by then.
        survived: whether enough masked updates had come.
    """

    def __init__(self, found: str, *, masked: bool, survived: bool = False) -> None:
        super().__init__("the round is void", found=found)
        self.masked, self.survived = masked, survived


def plain_mean(
    replies: Replies,
    *,
    expected: AdapterState,
    round_index: int,
    weights: Mapping[str, int],
    least: int,
    ranks: Mapping[str, int] | None = None,
    update_norm_bound: float | None = None,
    aggregate: Aggregate | None = None,
) -> RoundAggregate:
    """The weighted mean of updates in the clear, each entry over the sites that hold it.

    Args:
        expected: a state with the names and shapes of the factors that train.
        ranks: of the sites that train less than the job's rank; an update that goes beyond is not used.
        update_norm_bound: a longer update is scaled down to it, whatever its site was to do.
        aggregate: in place of the mean, such as a robust rule; it needs all sites at the job's rank.

    Raises:
        RoundError: fewer than `least` updates can be used.
        ConfigError: ranks together with another rule than the mean.
    """
    updates: dict[str, AdapterState] = {}
    missing: dict[str, str] = {}
    ranks = ranks or {}
    for site, reply in replies.items():
        try:
            update = _plain_update(reply, expected, round_index)
            check_block(update, ranks.get(site))
            updates[site] = update if update_norm_bound is None else norm_bounded(update, update_norm_bound)
        except (WireError, AdapterError) as error:
            missing[site] = one_line(str(error))
    if len(updates) < least:
        raise too_few(f"{len(updates)} updates", missing, least)
    weighted: Updates = {site: (weights[site], update) for site, update in updates.items()}
    if aggregate is None:
        mean = block_mean(weighted, ranks)
    elif not ranks:
        mean = aggregate(weighted)
    else:
        raise ConfigError(
            "sites of lower rank go with the weighted mean only",
            remedy='set federation.aggregation = "mean", or give all sites the job\'s rank',
        )
    return RoundAggregate(mean, tuple(sorted(updates)), missing, updates=weighted)


def _plain_update(reply: wire.Reply, expected: AdapterState, round_index: int) -> AdapterState:
    """The update in a reply, checked: of this round, finite, with the trained factors' names and shapes."""
    if isinstance(reply, wire.Refusal):
        raise WireError(reply.reason)
    if not isinstance(reply, wire.PlainUpdate):
        raise WireError(UNEXPECTED)
    if reply.round_index != round_index:
        raise WireError(STRANGE)
    update = AdapterState.from_bytes(reply.payload)
    update.check_finite()
    if {n: t.shape for n, t in update.tensors.items()} != {n: t.shape for n, t in expected.tensors.items()}:
        raise AdapterError("the update's factors are not those that train in this round")
    return update


def secure_mean(
    masked: Replies,
    *,
    masking: Masking,
    place: Place,
    terms: WindowTerms,
    carried: RoundSum,
    exchange: Exchange,
) -> RoundAggregate:
    """The mean of the survivors' updates, of which nothing but the sum is ever opened.

    Args:
        masked: the sites' answers to the request for masked updates.
        masking: the coordinator's side of the slot, before it has seen any.
        place: window and slot that the answers must be of.
        terms: of the window.
        carried: what the slot carries, and what its sum means.
        exchange: for the stages that follow.

    Raises:
        VoidRound: too few sites are left, in all or for a rank that one of them has.
    """
    missing: dict[str, str] = {}
    stage: Any = masking
    first, *later = wire.SLOT_STAGES
    replies, at = protocol_payloads(masked, first, place, missing), first
    try:
        for name in later:
            stage, payloads = stage.step(replies.items())
            answers, faults = exchange(name, payloads)
            missing |= {site: f"{reason} (stage {name})" for site, reason in faults.items()}
            replies, at = protocol_payloads(answers, name, place, missing), name
        opened: Opened = stage.step(replies.items())
    except RoundError as error:
        found = too_few(str(error), {**stage.refused, **missing}, terms.least_survivors).found
        raise VoidRound(found, masked=True, survived=at != first) from None
    missing = {**stage.refused, **missing}
    read = carried.read(opened)
    return RoundAggregate(
        mean_update=read.mean_update,
        answered=opened.survivors,
        missing={site: one_line(reason) for site, reason in missing.items() if site not in opened.survivors},
        clipped=read.clipped,
        next_range=read.next_range,
    )


def protocol_payloads(replies: Replies, stage: str, place: Place, missing: dict[str, str]) -> dict[str, bytes]:
    """The protocol's bytes in the replies to a stage; the reason of who sent something else goes to `missing`."""
    payloads = {}
    for site, reply in replies.items():
        if isinstance(reply, wire.SecureReply) and (reply.stage, reply.window, reply.slot) == (stage, *place):
            payloads[site] = reply.payload
        else:
            missing[site] = one_line(reply.reason) if isinstance(reply, wire.Refusal) else STRANGE
    return payloads


def too_few(found: str, reasons: Mapping[str, str], least: int) -> RoundError:
    """The error of a round that does not count, with what is known of every site that is missing."""
    named = "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items()))
    return RoundError(
        "the round has too few sites",
        found=f"{found} ({named})" if named else found,
        expected=f"at least {least} (federation.min_sites)",
        remedy="see to the sites named, then resume",
    )


def with_reasons(error: RoundError, reasons: Mapping[str, str], *, what: str = "") -> RoundError:
    """The same error with more sites named, and in other words for what happened if there are any."""
    named = "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items()) if not _names(error.found, site))
    found = f"{error.found}; {named}" if named else error.found
    return RoundError(what or error.what, found=found, expected=error.expected, remedy=error.remedy)


def _names(text: str, site: str) -> bool:
    """Whether a list of reasons has one of this site's."""
    return any(f"{before}{site}: " in text for before in ("(", "; "))
