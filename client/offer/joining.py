"""From which round on a site would take part in a job, were it approved now: as far as the site can know. Pure.

What it knows is the last offer: when it came, after how many finished rounds, and whether others came before it at the
same place. A coordinator offers again and again while it waits for sites, and once before each later round, which it
then begins without those that wait for their operator.
"""

from dataclasses import dataclass

from yoriai.client.offer.job_entry import Entry

# Between two offers of a coordinator that waits lie 20 s, and what the slowest site takes to answer.
STILL_WAITS_S = 90.0


@dataclass(frozen=True)
class Joining:
    """When a yes would take effect.

    Attributes:
        round: the first one that the site would be in, counted from 1; None where that is not known, or too late.
        is_late: whether no round is left that it could be in.
        text: both in words, for the operator.
    """

    round: int | None
    is_late: bool
    text: str


def joining(entry: Entry, now: float) -> Joining:
    """When a yes to this entry would take effect, at `now` (seconds since the epoch)."""
    job, done = entry.terms.config(), entry.offered_after
    rounds = job.federation.rounds
    if done is None or entry.offered_at is None:
        return Joining(None, False, "which round comes next is not known: the coordinator's version does not say")
    if _is_waited_for(entry, now, job.deadlines.gather_s):
        begins = "the job has not begun" if done == 0 else f"the coordinator waits for sites before round {done + 1}"
        return Joining(done + 1, False, f"{begins}: in time for round {done + 1} of {rounds}")
    if done + 1 < rounds:
        text = f"round {done + 1} of {rounds} is at work: in time for the next window, from round {done + 2} on"
        return Joining(done + 2, False, text)
    text = f"round {rounds} of {rounds}, the last, is at work: too late, unless the coordinator offers the job again"
    return Joining(None, True, text)


def _is_waited_for(entry: Entry, now: float, gather_s: float) -> bool:
    """Whether the coordinator has not begun the round before which it made the last offer."""
    if entry.offered_after == 0 and now < entry.seen_at + gather_s:
        return True
    return entry.offers > 1 and entry.offered_at is not None and now < entry.offered_at + STILL_WAITS_S
