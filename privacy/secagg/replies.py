"""What the coordinator's stages share: reading the sites' replies, and whether enough of them are left."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from yoriai.errors import IdentityError, ProtocolError, RoundError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import Graph, short_of_holders
from yoriai.privacy.secagg.keyset import KeySet, WindowTerms
from yoriai.privacy.secagg.messages import Buffer
from yoriai.privacy.secagg.ranks import thin_among

Replies = Iterable[tuple[str, Buffer]]
"""Answers to one stage, by site name; may be a generator that yields them as they arrive."""

Payloads = Mapping[str, bytes]
"""What to send next, by site name: exactly the sites that are still in it."""

Content = TypeVar("Content")


class SumStage:
    """One stage of one window or slot at the coordinator."""

    def __init__(self, directory: Directory, refused: dict[str, str]) -> None:
        self._directory = directory
        self.refused = refused

    def _collect(
        self, replies: Replies, expected: frozenset[int], read: Callable[[Buffer], Content]
    ) -> dict[int, Content]:
        """Read every reply; who is not expected, answers twice, for another, or wrongly, is refused with the reason."""
        answers: dict[int, Content] = {}
        for name, data in replies:
            try:
                position = self._directory.roster.position(name)
                if position not in expected or position in answers:
                    raise ProtocolError("a reply that was not asked for", found=f"from {name}")
                if wire.sender_of(data) != position:
                    raise ProtocolError("a reply in another site's name", found=f"from {name}")
                answers[position] = read(data)
            except (ProtocolError, IdentityError) as error:
                self.refused.setdefault(name, str(error))
        return dict(sorted(answers.items()))

    def _need_members(self, what: str, members: Collection[int], terms: WindowTerms, quorum: int = 0) -> None:
        """Enough sites in all, and of every rank that one of them has; the sites check the same."""
        need(what, len(members), max(terms.least_survivors, quorum))
        full = terms.full_rank
        if full is not None and (thin := thin_among(self._directory, members, full, terms.least_survivors)):
            sharing = sum(self._directory.rank(site, full) == thin[0] for site in members)
            need(f"{what} of rank {thin[0]}", sharing, terms.least_survivors)

    def _names(self, positions: Iterable[int]) -> list[str]:
        return [self._directory.name(position) for position in positions]


def need(what: str, found: int, least: int) -> None:
    """Raise RoundError if there are fewer than that."""
    if found < least:
        raise RoundError(f"too few {what}", found=str(found), expected=f"at least {least}", remedy="the round is void")


class Keyed(SumStage):
    """A stage after the key set is fixed."""

    def __init__(self, directory: Directory, refused: dict[str, str], keys: KeySet, threads: int) -> None:
        super().__init__(directory, refused)
        self._keys, self._threads = keys, threads

    def _check_holders(self, members: Iterable[int], graph: Graph) -> None:
        short = short_of_holders(members, graph, self._keys.plan.threshold)
        if short:
            names = ", ".join(self._names(short[:5]))
            raise RoundError("sites with too few holders of their shares left", found=names, remedy="the round is void")
