"""Sites that give a leading part of the vector only: which sets of them may be summed.

A site of rank r trains the first r directions of the shared adapter and gives zeros beyond. The sum's entries beyond
some direction are then a sum over the sites that hold it, and with too few of those it tells about single ones. So a
set of sites is judged by every direction that at least one of them holds. Ranks come from the signed roster only.
"""

from collections.abc import Iterable

from yoriai.privacy.roster import Directory


def thin_ranks(ranks: Iterable[int], least: int) -> tuple[int, ...]:
    """The ranks, ascending, that somebody has and that fewer than `least` reach: none, if the set may be summed.

    Direction j is held by the sites of rank above j, and that number changes at the sites' own ranks only; so these
    are all the thresholds there are.

    Args:
        ranks: one a site, as it counts in the job.
        least: the fewest sites whose sum may open.
    """
    given = sorted(ranks)
    return tuple(rank for rank in sorted(set(given)) if sum(other >= rank for other in given) < least)


def thin_among(directory: Directory, members: Iterable[int], full_rank: int | None, least: int) -> tuple[int, ...]:
    """`thin_ranks` of these roster positions in a job of `full_rank`; none where every site gives the whole vector."""
    if full_rank is None:
        return ()
    return thin_ranks((directory.rank(site, full_rank) for site in members), least)
