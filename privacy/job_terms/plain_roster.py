"""A signed roster as messages repeat it, and what distributed noise asks of one. Server and sites both look at it."""

from yoriai import wire
from yoriai.privacy.identity.roster import Roster


def plain_roster(roster: Roster, full_rank: int) -> wire.Roster:
    """The signed roster as an offer has it: ranks of those alone that train less than the job's."""
    ranks = {entry.name: entry.rank_in(full_rank) for entry in roster.sites}
    return wire.Roster(
        serial=roster.serial,
        weights={entry.name: entry.weight for entry in roster.sites},
        ranks={name: rank for name, rank in ranks.items() if rank < full_rank},
    )


def unlike_sites(roster: wire.Roster) -> list[str]:
    """The sites whose noise would not count like the others': of another weight than 1, or of a lower rank."""
    return sorted({site for site, weight in roster.weights.items() if weight != 1} | set(roster.ranks))
