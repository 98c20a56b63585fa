"""Work that parties of one process have in common: done by each for itself, or once for all of them.

Each site verifies the same key set, graph and signatures, and both ends of a pair derive the same keys. At a site of
its own that is what the protocol rests on, and it shares nothing (`OwnWork`, the default everywhere). Where one process
plays all sites, `SharedWork` is handed in by whoever plays them: the process holds all keys anyway, and nothing that
comes out of a function of the same bytes differs. Both give the same, bit for bit.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from yoriai.privacy.secagg.secret import Guarded

Result = TypeVar("Result")

_KEPT_RESULTS = 256
# Of pairs whose other end has not come yet; one that dropped out never does. Some 300 MB.
_KEPT_ENDS = 1 << 20


class Work(Protocol):
    """How a party comes by what others work out as well."""

    def once(self, what: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` gives: public, and a function of `what` alone for all that share the work."""
        ...

    def both_ends(self, pair: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` gives: secret, the same at the two ends of a pair, and asked for once at each."""
        ...


class OwnWork:
    """A party that believes nobody and keeps nothing."""

    def once(self, what: Hashable, make: Callable[[], Result]) -> Result:
        """See Work."""
        return make()

    def both_ends(self, pair: Hashable, make: Callable[[], Result]) -> Result:
        """See Work."""
        return make()


class SharedWork(Guarded):
    """For a simulation alone: all parties trust the same CA, judge at about the same time, and are one process.

    What fails is not kept, so that each party raises its own error. A secret is forgotten when its second end has it.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, Any] = OrderedDict()
        self._ends: dict[Hashable, Any] = {}

    def once(self, what: Hashable, make: Callable[[], Result]) -> Result:
        """See Work."""
        if what not in self._results:
            self._results[what] = make()
            if len(self._results) > _KEPT_RESULTS:
                self._results.popitem(last=False)
        found: Result = self._results[what]
        return found

    def both_ends(self, pair: Hashable, make: Callable[[], Result]) -> Result:
        """See Work."""
        found: Result | None = self._ends.pop(pair, None)
        if found is None:
            self._ends[pair] = found = make()
            if len(self._ends) > _KEPT_ENDS:
                del self._ends[next(iter(self._ends))]
        return found
