"""A conversation with one site, from the coordinator's side, and what may be expected of its answers."""

from dataclasses import dataclass, field
from typing import Any

from tests.client.conftest import LABELS
from yoriai import wire
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.config import JobConfig, PolicySection, SiteConfig
from yoriai.privacy.dp.accounting import calibrate
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.strategies.adapter import AdapterState

MARKER = "swordfish"


def site_records(count: int = 8) -> SiteRecords:
    """Records with a word that must never leave; their place stands for a local path."""
    train = tuple(
        Record(prompt=f"{MARKER} {n}", response=LABELS[n % 3], place=f"/home/{MARKER}/train.jsonl line {n + 1}")
        for n in range(count)
    )
    return SiteRecords("north", train, ())


@dataclass
class Office:
    """The coordinator's side of a conversation with one site, and what the site writes down locally."""

    bench: ModelSession
    ledger: Ledger
    policy: PolicySection
    records: SiteRecords = field(default_factory=site_records)
    log: list[str] = field(default_factory=list)
    run: str = "run-1"

    def __post_init__(self) -> None:
        self.rebuild()

    def rebuild(self) -> None:
        """Start the site anew, as after a crash."""
        hooks = SiteHooks(
            randomness=lambda run, index: SeededSource(f"{run}:{index}".encode()), on_fault=self.log.append
        )
        config = SiteConfig(name="north", policy=self.policy)
        self.site = Site(config, self.records, session=self.bench, ledger=self.ledger, hooks=hooks)

    def send(self, message: wire.Message) -> wire.Message:
        """Ask, and see that no word of the records is in the answer."""
        reply = self.site.handle(wire.encode(message))
        assert MARKER.encode() not in reply
        return wire.decode(reply)

    def offer(self, job: JobConfig, /, **changes: Any) -> wire.Message:
        """Offer a job, with changes to the message."""
        values = {
            "run_id": self.run,
            "job": job.model_dump(mode="json", by_alias=True),
            "roster": wire.Roster(serial=1, weights={"north": 2, "south": 1}),
            "base_digest": self.bench.base.digest,
            "noise_multiplier": changes.get("noise_multiplier") or noise_for(job),
            "payload": b"" if "payload" in changes else self.bench.initial_adapter(job).to_bytes(),
        }
        return self.send(wire.JobOffer.model_construct(**(values | changes)))  # Unchecked, as a hostile one would.

    def train(self, job: JobConfig, round_index: int = 0, state: AdapterState | None = None) -> wire.Message:
        """Ask for a round, from the first adapter unless another is given."""
        adapter = state or self.bench.initial_adapter(job)
        return self.send(
            wire.TrainRequest.model_construct(
                run_id=self.run,
                round_index=round_index,
                adapter_digest=adapter.digest(),
                payload=adapter.select(("R",)).to_bytes(),
            )
        )

    def charges(self) -> list[tuple[int, bool]]:
        """What the ledger was charged: round and whether it was released."""
        return [(charge.round_index, charge.released) for charge in self.ledger.charges()]


def noise_for(job: JobConfig) -> float | None:
    """The noise of an honest coordinator."""
    privacy, steps = job.privacy, (job.federation.rounds + job.privacy.spare_rounds) * job.training.local_steps
    if privacy.noise == "none":
        return None
    return calibrate(
        epsilon=privacy.epsilon, delta=privacy.delta, sampling_rate=job.training.sampling_rate, steps=steps
    )


def refused(reply: wire.Message, reason: str) -> wire.Refusal:
    """The refusal that a reply has to be, with this in its reason."""
    assert isinstance(reply, wire.Refusal), reply
    assert reason in reply.reason
    return reply


def accepted(reply: wire.Message) -> None:
    """See that the job was accepted."""
    assert isinstance(reply, wire.Acceptance), reply


def charge_and_size(office: Office, job: JobConfig, records: SiteRecords, run: str, **offer: Any) -> tuple[Any, int]:
    """Have a site with these records train a job's first round: the event of its charge, and its update's bytes."""
    office.records, office.run = records, run
    office.rebuild()
    accepted(office.offer(job, **offer))
    done = office.train(job)
    updated(done)
    assert isinstance(done, wire.PlainUpdate)
    seen = office.ledger.charges()[-1].event, len(done.payload)
    office.ledger.finish(office.run)
    return seen


def updated(reply: wire.Message) -> AdapterState:
    """The update that a reply has to be."""
    assert isinstance(reply, wire.PlainUpdate), reply
    return AdapterState.from_bytes(reply.payload)
