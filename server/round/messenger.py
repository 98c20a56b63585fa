"""Typed messages over a Transport, with their bytes counted and every reply checked to be what was asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from yoriai import wire
from yoriai.errors import WireError
from yoriai.server.round.sealing import Sealer
from yoriai.terminal import one_line

UNEXPECTED = "an unexpected kind of reply"
STRANGE = "the reply belongs to another site, round or run"


class Transport(Protocol):
    """How bytes get to sites and back."""

    def sites(self) -> Sequence[str]:
        """Names of the sites that can be reached now."""
        ...

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """Send each site its payload and gather the replies by site; one that fails or is late has none."""
        ...


@runtime_checkable
class TellsFailures(Protocol):
    """A transport that knows why a site's reply is missing."""

    def failures(self) -> Mapping[str, str]:
        """Why replies of the last exchange are missing, by site, as far as is known."""
        ...


class Messenger:
    """One run's messages to and from its sites.

    Args:
        transport: to the sites.
        run_id: of the run.
        sealer: signs each message; None where sites have no CA, as in a simulation without secure aggregation.

    Attributes:
        ledger_heads: the newest commitment to its ledger that each site sent. It is for the site to check.
    """

    def __init__(self, transport: Transport, run_id: str, sealer: Sealer | None = None) -> None:
        self._transport, self._run_id, self._sealer = transport, run_id, sealer
        self.ledger_heads: dict[str, str] = {}
        self._up: Counter[str] = Counter()
        self._down: Counter[str] = Counter()

    def reachable(self) -> set[str]:
        """Sites that can be reached now."""
        return set(self._transport.sites())

    def ask(
        self, stage: str, payloads: Mapping[str, bytes], timeout_s: float
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """Send each site its encoded message: the replies that can be read, and why the other sites have none.

        The same message, asked again, is another instruction: a site takes none twice.
        """
        if self._sealer is not None:
            payloads = {site: self._sealer.sealed(site, data) for site, data in payloads.items()}
        answers = self._transport.exchange(stage, payloads, timeout_s) if payloads else {}
        known = self._transport.failures() if isinstance(self._transport, TellsFailures) else {}
        replies, faults = {}, {}
        for site, data in payloads.items():
            self._down[site] += len(data)
            self._up[site] += len(answers.get(site, b""))
            if site not in answers:
                faults[site] = one_line(known.get(site, "no reply in time"))
                continue
            try:
                replies[site] = self._read(site, answers[site])
            except WireError as error:
                faults[site] = str(error)
        return replies, faults

    def take_bytes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes (up, down) by site since the last call."""
        counted = dict(self._up), dict(self._down)
        self._up.clear()
        self._down.clear()
        return counted

    def _read(self, site: str, data: bytes) -> wire.Reply:
        reply = wire.decode(data)
        if not isinstance(reply, wire.Reply):
            raise WireError(UNEXPECTED)
        # A site that could not read the question does not know which run it was of.
        known = (self._run_id, "") if isinstance(reply, wire.Refusal) else (self._run_id,)
        if reply.site != site or reply.run_id not in known:
            raise WireError(STRANGE)
        if not isinstance(reply, wire.Refusal) and reply.ledger_head:
            self.ledger_heads[site] = reply.ledger_head
        return reply
