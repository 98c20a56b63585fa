"""Sites that wait for their operator and keep what is delivered to them, and a coordinator who signs."""

from pathlib import Path

from tests.coordinators import Known, asked
from tests.server.faulty import BASE_DIGEST, RUN_ID, FakeSite, FaultyTransport, small_job
from yoriai import wire
from yoriai.config import JobConfig
from yoriai.server.round.attendance import Deadlines
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.registry import Registry
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

KNOWN = Known()


class Keeper(FakeSite):
    """Keeps what is delivered to it; an end alone, if it took the job. Until `approved` it waits for its operator."""

    def __init__(self, name: str, *, approved: bool = True, patience: int = 10**6) -> None:
        super().__init__(name)
        self.approved, self.patience, self.asked = approved, patience, 0
        self.deliveries: list[wire.Delivery] = []

    def handle(self, data: bytes) -> bytes:
        """Wait, confirm, or be a fake site."""
        message = asked(data)
        if isinstance(message, wire.JobOffer):
            self.asked += 1
            if not self.approved and self.asked <= self.patience:
                reason = "waits for its operator"
                return wire.encode(wire.Refusal(run_id=message.run_id, site=self.name, reason=reason, waiting=True))
        if isinstance(message, wire.VersionFile):
            return wire.encode(wire.Refusal(run_id=message.run_id, site=self.name, reason="takes no versions"))
        if isinstance(message, wire.Delivery):
            if not self.offers and not message.payload:
                return wire.encode(wire.Refusal(run_id=message.run_id, site=self.name, reason="has not taken part"))
            self.deliveries.append(message)
            digest = AdapterState.from_bytes(message.payload).digest() if message.payload else ""
            return wire.encode(wire.Receipt(run_id=message.run_id, site=self.name, adapter_digest=digest))
        return super().handle(data)


def keepers(names: str, **more: Keeper) -> dict[str, Keeper]:
    """One site a letter."""
    return {name: more.get(name, Keeper(name)) for name in names}


def coordinator(
    transport: FaultyTransport,
    folder: Path,
    *,
    job: JobConfig | None = None,
    offer_s: float = 5.0,
    roster: str = "",
    delivers: bool = True,
    gather_s: float = 0.0,
) -> Coordinator:
    """A coordinator over the transport, with every site of it in the roster unless one is given."""
    job = job or small_job(federation__rounds=2)
    return Coordinator(
        job,
        wire.Roster(serial=1, weights=dict.fromkeys(roster or transport.fakes, 1)),
        base_digest=BASE_DIGEST,
        noise_multiplier=1.0,
        rule=get_rule(job.federation.rule),
        transport=transport,
        registry=Registry(folder),
        run_id=RUN_ID,
        deadlines=Deadlines(offer_s=offer_s, train_s=1.0, gather_s=gather_s),
        signing=KNOWN.signing() if delivers else None,
        offer_again_s=0.01,
    )
