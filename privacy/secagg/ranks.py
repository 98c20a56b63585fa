"""Sites that give a leading part of the vector only: which sets of them may be summed.

A site of rank r trains the first r directions of the shared adapter and gives zeros beyond. The sum's entries beyond
some direction are then a sum over the sites that hold it, and with too few of those it tells about single ones.

So does a difference of two entries. Directions that read the same input (two equal rows of A, which a coordinator may
offer) have the same gradient, and then an entry that all hold less one that only wider sites hold is a sum over the
narrower. All that opens are sums of whole ranks; so every rank that somebody has must be that of enough sites, and
then every combination of entries is over enough. Ranks come from the signed roster only.
"""

from collections import Counter
from collections.abc import Iterable

from yoriai.privacy.identity.roster import Directory


def thin_ranks(ranks: Iterable[int], least: int) -> tuple[int, ...]:
    """The ranks, ascending, that somebody has and fewer than `least` share: none, if the set may be summed.

    Args:
        ranks: one a site, as it counts in the job.
        least: the fewest sites whose sum may open.
    """
    return tuple(rank for rank, sites in sorted(Counter(ranks).items()) if sites < least)


def thin_among(directory: Directory, members: Iterable[int], full_rank: int | None, least: int) -> tuple[int, ...]:
    """`thin_ranks` of these roster positions in a job of `full_rank`; none where every site gives the whole vector."""
    if full_rank is None:
        return ()
    return thin_ranks((directory.rank(site, full_rank) for site in members), least)
