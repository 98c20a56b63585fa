"""The neighbour graph: who masks with whom, who holds whose shares, and why that is enough.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova, "Secure single-server aggregation with (poly)logarithmic overhead",
CCS 2020, malicious variant; the bounds below are our own, because the consistency round here is global.

With n sites in the key set and up to 32 of them the graph is complete: every site masks with every other, all others
hold its shares, and floor((n - 1) / 2) + 1 of them rebuild a secret. Colluders are fewer than that whenever the
consistency round is sound (at most floor(n/3) of them), so nothing is left to chance.

Above 32 sites each site draws m = k/2 holders from its own generator, uniformly and without replacement. They alone
hold its shares: an adversary can make any number of colluders choose a victim, but cannot make the victim choose them.
A site masks with those it chose and those that chose it, 2m = k on average, and refuses more than 2m that chose it. A
mask counts as soon as one of its two honest ends has added it, so withholding an edge from the other end gains nothing.

Assumptions: at most floor(n/3) sites collude with the server, chosen before the graph is drawn. The server is active:
after it has seen the graph it declares any n - (floor(2n/3) + 1) sites dropped, in every slot of the window others. For
correctness only: a tenth of the sites (rounded up) drops out of a slot independently of the graph.

A graph serves a whole window. Failure for privacy: 2^-40 a window, for all of its slots together. Bounds 1 and 3 speak
of the graph alone, and 3 of every set that may be declared dropped, so a graph that passes them is good in each slot;
one that does not may give away all of them. Failure for correctness: 2^-30 a slot, R * 2^-30 a window of R slots.

m and the threshold t come from three bounds. H is the number of honest sites, c = floor(n/3), and X, distributed as
Hypergeometric(n - 1, c, m), the number of colluders among a site's holders.

1. Colluders reach a neighbourhood's threshold. They then hold both secrets of an honest site: H * P[X >= t].
2. Too few neighbours alive. With Y ~ Hypergeometric(n - 1, n - 1 - ceil(n/10), m) holders alive, n * P[Y < t] is
   the chance that some secret cannot be rebuilt: the round is void, nothing opens.
3. Honest survivors disconnected: a part's masks cancel within the part, and its sum opens. Honest sites sign a
   survivor set only if every member has t of its holders in it. So in a part of s <= H/2 honest sites each member has
   t holders among the part and the colluders, hence at least t - s + 1 colluders: H * P[X >= t - s + 1]. And there is
   a set of d sites declared dropped, d <= n - floor(2n/3) - 1, such that nobody in the part chose one of the other
   r = H - s - d honest sites, and none of those chose one in the part: C(H, s) * sum over d of
   C(H - s, d) * A(r)^s * A(s)^r, where A(x) = C(n - 1 - x, m) / C(n - 1, m) is the chance that a site's draw avoids x
   given sites. The smaller of the two counts, summed over s; s = 1 contains bound 1.

`PLANS` holds the least m, and the largest t that bound 2 allows, for steps of n; a table rather than a search at run
time, since every party must come to the same numbers to the last bit. The tests recompute the bounds for sizes of
every step.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.shamir import Entropy

COMPLETE_UP_TO = 32
PRIVACY_LOG2, CORRECTNESS_LOG2 = -40.0, -30.0
DROPPED_FRACTION = 0.1

PLANS = (  # (largest n, holders m, threshold t)
    (40, 19, 15), (48, 23, 18), (64, 30, 23), (80, 35, 27), (96, 41, 31), (128, 50, 37), (160, 58, 42), (192, 67, 47),
    (256, 80, 56), (384, 94, 65), (512, 104, 72), (768, 117, 81), (1024, 125, 87), (1536, 139, 97), (2048, 148, 104),
)  # fmt: skip
MAX_SITES = PLANS[-1][0]

Graph = Mapping[int, frozenset[int]]
"""Holders that each site drew, by site."""


@dataclass(frozen=True)
class Plan:
    """Sizes that follow from the size of the key set alone, so that no server can choose them."""

    holders: int
    threshold: int
    in_degree_limit: int


def plan(n: int) -> Plan:
    """Holders a site, shares that rebuild a secret, and the most sites that may have chosen one.

    Raises:
        ProtocolError: for fewer than 2 or more than 2,048 sites.
    """
    if not 2 <= n <= MAX_SITES:
        raise ProtocolError("number of sites in a secure sum", found=str(n), expected=f"2 to {MAX_SITES}")
    if n <= COMPLETE_UP_TO:
        return Plan(n - 1, (n - 1) // 2 + 1, n - 1)
    holders, threshold = next((m, t) for largest, m, t in PLANS if n <= largest)
    return Plan(holders, threshold, min(n - 1, 2 * holders))


def quorum(n: int) -> int:
    """Consistency signatures without which no share leaves: floor(2n/3) + 1.

    Two different sets with a quorum each share more than n/3 signers, so an honest site would have had to sign both.
    """
    return 2 * n // 3 + 1


def draw_holders(own: int, ids: tuple[int, ...], entropy: Entropy) -> tuple[int, ...]:
    """Draw a site's holders uniformly without replacement from the other members, in ascending order."""
    others = [site for site in ids if site != own]
    count = plan(len(ids)).holders
    for i in range(count):
        j = i + _below(len(others) - i, entropy)
        others[i], others[j] = others[j], others[i]
    return tuple(sorted(others[:count]))


def _below(limit: int, entropy: Entropy) -> int:
    """Uniform integer below `limit` (at most 2^16): 32 random bits, drawn again above the largest multiple."""
    fair = 2**32 - 2**32 % limit
    while True:
        value = int.from_bytes(entropy(4), "big")
        if value < fair:
            return value % limit


def neighbours(own: int, graph: Graph) -> frozenset[int]:
    """Everybody that the site masks with: those it drew and those that drew it."""
    return graph[own] | choosers(own, graph)


def choosers(own: int, graph: Graph) -> frozenset[int]:
    """Sites that drew this one as a holder of their shares."""
    return frozenset(site for site, drawn in graph.items() if own in drawn)


def short_of_holders(members: Iterable[int], graph: Graph, threshold: int) -> tuple[int, ...]:
    """Members with fewer than `threshold` holders among the members: their secrets could not be rebuilt."""
    alive = frozenset(members)
    return tuple(sorted(site for site in alive if len(graph[site] & alive) < threshold))


@dataclass(frozen=True)
class FailureBounds:
    """log2 of the chance of a failure somewhere: colluding holders and disconnected survivors, in a window; too few
    alive, in a slot."""

    colluders: float
    disconnected: float
    too_few_alive: float


def failure_bounds(n: int, holders: int, threshold: int) -> FailureBounds:
    """Bounds 1 to 3 of the module's docstring for a sparse graph of n sites, under its assumptions."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    colluding, honest = n // 3, n - n // 3
    tail = np.logaddexp.accumulate(_log_pmf(log_factorial, n - 1, colluding, holders)[::-1])[::-1]
    dropped = math.ceil(DROPPED_FRACTION * n)
    alive = _log_pmf(log_factorial, n - 1, n - 1 - dropped, holders)
    sizes = np.arange(1, honest // 2 + 1)
    small = math.log(honest) + tail[np.maximum(threshold - sizes + 1, 0)]
    apart = np.array([_log_apart(log_factorial, n, holders, int(s)) for s in sizes])
    return FailureBounds(
        colluders=float(math.log(honest) + tail[threshold]) / math.log(2),
        disconnected=float(np.logaddexp.reduce(np.minimum(small, apart))) / math.log(2),
        too_few_alive=float(math.log(n) + np.logaddexp.reduce(alive[:threshold])) / math.log(2),
    )


def _log_choose(log_factorial: NDArray[np.float64], n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    """log C(n, k), minus infinity where k > n."""
    possible = (k >= 0) & (k <= n)
    n, k = np.where(possible, n, 0), np.where(possible, k, 0)
    return np.where(possible, log_factorial[n] - log_factorial[k] - log_factorial[n - k], -np.inf)


def _log_pmf(log_factorial: NDArray[np.float64], total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """log P[x marked ones among `drawn`] for x = 0 .. drawn (hypergeometric)."""
    x = np.arange(drawn + 1)
    ways = _log_choose(log_factorial, np.full_like(x, marked), x)
    ways = ways + _log_choose(log_factorial, np.full_like(x, total - marked), drawn - x)
    every = _log_choose(log_factorial, np.array([total]), np.array([drawn]))
    return np.asarray(ways - every, dtype=np.float64)


def _log_apart(log_factorial: NDArray[np.float64], n: int, holders: int, size: int) -> float:
    """log of the union bound over parts of `size` honest sites that no draw connects to the other survivors."""
    honest = n - n // 3
    d = np.arange(0, n - quorum(n) + 1)
    d = d[honest - size - d >= size]
    rest = honest - size - d
    m, every = np.array([holders]), _log_choose(log_factorial, np.array([n - 1]), np.array([holders]))
    avoid_rest = _log_choose(log_factorial, n - 1 - rest, np.full_like(rest, holders)) - every
    avoid_part = _log_choose(log_factorial, np.array([n - 1 - size]), m) - every
    part = _log_choose(log_factorial, np.array([honest]), np.array([size]))
    gone = _log_choose(log_factorial, np.full_like(d, honest - size), d)
    return float(np.logaddexp.reduce(part + gone + size * avoid_rest + rest * avoid_part))
