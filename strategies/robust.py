"""From the updates of single sites to one: the weighted mean, or rules that bear some false updates.

    median        per coordinate, the middle value, or the mean of the two middle ones
    trimmed_mean  per coordinate, the mean of what is left without the k least and the k greatest values
    krum          the one update whose n − f − 2 nearest others are the nearest: least Σ ‖u_i − u_j‖²

All but the mean are unweighted, so that a large site that is false does not outweigh the others; a site of weight zero
does not count at all, in any of them. They look at single updates, and so cannot go with secure aggregation.

What each bears: the median fewer than half of the updates; the trimmed mean k; krum f, of at least 2f + 3. Up to that
number the result stays among the honest values (krum: is an update near the honest ones). The price: where sites hold
different records, honest updates differ too, and a site unlike the others is outvoted, or with krum never heard.

No privacy guarantee of its own: post-processing of updates that each site has made private before.

References: Yin et al. 2018, Byzantine-robust distributed learning (arXiv 1803.01498), definitions 1 and 2; Blanchard et
al. 2017, Machine learning with adversaries (arXiv 1703.02757), section 4.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError, ConfigError, RoundError
from yoriai.strategies.adapter import AdapterState, difference, elementwise, scaled, weighted_mean

KINDS = ("mean", "median", "trimmed_mean", "krum")

Updates = Mapping[str, tuple[float, AdapterState]]  # site -> weight, update

# Room for rounding each entry to float32, so that a shortened update is not above its bound after it either.
_ROUNDING_ROOM = 1.0 - 2.0**-23


def aggregate(kind: str, updates: Updates, *, trim_fraction: float, byzantine_sites: int) -> AdapterState:
    """One update from those of the sites; the same bits in whatever order the mapping has them.

    Args:
        kind: one of `KINDS`, as in the job file's federation.aggregation.
        updates: weight and update by site; sites of weight zero are left out.
        trim_fraction: share of the updates that trimmed_mean drops at each end; in (0, 0.5).
        byzantine_sites: false updates that krum is to bear.

    Raises:
        ConfigError: an unknown kind, or a setting out of its bounds.
        RoundError: fewer updates of positive weight than `least_updates`.
        AdapterError: names or shapes differ between sites, an update is not finite, or a weight is negative or not
            finite.
    """
    least = least_updates(kind, byzantine_sites)
    counted = _counted(updates)
    if len(counted) < least:
        raise RoundError(
            f"too few updates for federation.aggregation = {kind}",
            found=f"{len(counted)} of positive weight",
            expected=f"at least {least}",
            remedy="see to the missing sites, or choose another aggregation",
        )
    if kind == "mean":
        return weighted_mean({site: updates[site] for site in counted})
    if kind == "median":
        return _median(counted)
    if kind == "trimmed_mean":
        return _trimmed_mean(counted, trim_fraction)
    return counted[_krum_choice(counted, byzantine_sites)]


def least_updates(kind: str, byzantine_sites: int) -> int:
    """How many updates that kind needs to bear one false one (krum: `byzantine_sites`); the mean bears none.

    Of two updates nothing tells which is false, so median and trimmed mean need three.

    Raises:
        ConfigError: an unknown kind, or fewer than one byzantine site.
    """
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind.lower(), KINDS, n=1)
        raise ConfigError(
            "federation.aggregation is not a known one",
            found=f'"{kind[:40]}"',
            expected=f"one of {', '.join(KINDS)}",
            remedy=f'did you mean "{nearest[0]}"?' if nearest else "",
        )
    if byzantine_sites < 1:
        raise ConfigError("federation.byzantine_sites", found=str(byzantine_sites), expected="at least 1")
    return {"mean": 1, "median": 3, "trimmed_mean": 3, "krum": 2 * byzantine_sites + 3}[kind]


def trimmed(trim_fraction: float, count: int) -> int:
    """How many of `count` values, at least three, a trimmed mean drops at each end.

    The share, rounded down, and never less than one: who asks for a trimmed mean of five updates with a share of 0.1
    wants it to bear a false one, and rounding down to none would leave the plain mean.

    Raises:
        ConfigError: a share outside (0, 0.5).
    """
    if not 0.0 < trim_fraction < 0.5:
        raise ConfigError("federation.trim_fraction", found=str(trim_fraction), expected="above 0 and below 0.5")
    # Taken as the decimal that was written: the product of floats would make 28 of 0.29 · 100.
    return max(1, math.floor(Fraction(str(trim_fraction)) * count))


def _median(updates: Mapping[str, AdapterState]) -> AdapterState:
    """The coordinate-wise median of one update or more."""
    middle, above = (len(updates) - 1) // 2, len(updates) // 2
    return _by_coordinate(updates, lambda ordered: 0.5 * (ordered[middle] + ordered[above]))


def _trimmed_mean(updates: Mapping[str, AdapterState], trim_fraction: float) -> AdapterState:
    """The coordinate-wise mean without the `trimmed` least and greatest values of three updates or more."""
    cut = trimmed(trim_fraction, len(updates))

    def mean_of_rest(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = ordered[cut : len(updates) - cut]
        total = np.zeros(kept.shape[1:], np.float64)
        for value in kept:  # One by one, as in `weighted_mean`, so that no library chooses the order.
            total += value
        return total / len(kept)

    return _by_coordinate(updates, mean_of_rest)


def _krum_choice(updates: Mapping[str, AdapterState], byzantine_sites: int) -> str:
    """The site whose update has the least sum of squared distances to its n − f − 2 nearest others.

    Of equal sums, the site whose name sorts first. Distances are over all tensors together, in float64.
    """
    sites = sorted(updates)
    for site in sites[1:]:
        difference(updates[sites[0]], updates[site])  # Only for its check of names and shapes.
    vectors = {site: updates[site].flatten().astype(np.float64) for site in sites}
    squared = {
        (a, b): float(np.sum(np.square(vectors[a] - vectors[b]))) for i, a in enumerate(sites) for b in sites[i + 1 :]
    }
    neighbours = len(sites) - byzantine_sites - 2

    def score(site: str) -> float:
        distances = sorted(squared[min(site, other), max(site, other)] for other in sites if other != site)
        return math.fsum(distances[:neighbours])

    return min(sites, key=score)  # The first of equals, and the sites are sorted.


def norm_bounded(update: AdapterState, bound: float) -> AdapterState:
    """The update itself when its L2 norm, over all tensors together, is at most the bound; else scaled down to it.

    The result never exceeds the bound, so that a second pass changes no bit.

    Raises:
        ConfigError: a bound that is not above zero and finite.
        AdapterError: the update is not finite.
    """
    if not 0.0 < bound < math.inf:
        raise ConfigError("federation.update_norm_bound", found=str(bound), expected="a finite number above 0")
    update.check_finite()
    norm = update.norm()
    return update if norm <= bound else scaled(update, bound / norm * _ROUNDING_ROOM)


def _counted(updates: Updates) -> dict[str, AdapterState]:
    """The updates of positive weight by site, each checked; in sorted order, which decides where 0.0 and −0.0 meet."""
    counted = {}
    for site in sorted(updates):
        weight, update = updates[site]
        if not 0.0 <= weight < math.inf:
            raise AdapterError(f"the weight of site {site}", found=str(weight), expected="a finite number, 0 or more")
        if weight == 0:
            continue
        try:
            update.check_finite()
        except AdapterError as error:
            raise AdapterError(f"site {site}: {error.what}", expected=error.expected) from None
        counted[site] = update
    return counted


def _by_coordinate(
    updates: Mapping[str, AdapterState], operation: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> AdapterState:
    """Apply a function of the sorted values (n, ...) to each coordinate; rounded once."""
    first, *others = updates.values()
    return elementwise(lambda *values: operation(np.sort(np.stack(values), axis=0)), first, *others)
