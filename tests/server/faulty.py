"""Sites without models, and a transport that lets them fail in every way that a coordinator must survive."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.coordinators import asked
from yoriai import wire
from yoriai.config import JobConfig, override
from yoriai.server.round.attendance import Deadlines
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.registry import Registry
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

MAPS = {"layers.0.q_proj": (3, 2), "layers.1.q_proj": (2, 4)}
BASE_DIGEST = "ab" * 32
RUN_ID = "run-1"

# What becomes of a site's reply: from the request and the honest reply to what arrives, or None for nothing.
Fault = Callable[[wire.Message, bytes], bytes | None]


def initial_adapter(rule: str = "fedavg") -> AdapterState:
    """A small complete adapter."""
    drawn = np.random.default_rng(0)
    factors = {path: (drawn.normal(size=(out, 2)), drawn.normal(size=(2, into))) for path, (out, into) in MAPS.items()}
    return get_rule(rule).initial(MAPS, 2, 0, factors)


def update_of(site: str, round_index: int, start: AdapterState) -> AdapterState:
    """What an honest site sends: it depends on the site, the round and every bit of the adapter it starts from."""
    seed = int.from_bytes(f"{site}:{round_index}:{start.digest()}".encode(), "big")
    generator = np.random.default_rng(seed)
    return AdapterState({n: generator.normal(size=t.shape).astype("f4") for n, t in start.tensors.items()})


class FakeSite:
    """Accepts every job; its update is `make_update` of what it is asked."""

    def __init__(self, name: str, make_update: Callable[[str, int, AdapterState], AdapterState] = update_of) -> None:
        self.name, self._make_update = name, make_update
        self.offers: list[wire.JobOffer] = []
        self.trained: list[int] = []

    def handle(self, data: bytes) -> bytes:
        message = asked(data)
        if isinstance(message, wire.JobOffer):
            self.offers.append(message)
            return wire.encode(wire.Acceptance(run_id=message.run_id, site=self.name))
        assert isinstance(message, wire.TrainRequest)
        if not self.offers:
            refusal = wire.Refusal(run_id=message.run_id, site=self.name, reason="unknown job", unknown_job=True)
            return wire.encode(refusal)
        start = AdapterState.from_bytes(self.offers[-1].payload).merged_with(AdapterState.from_bytes(message.payload))
        assert start.digest() == message.adapter_digest
        self.trained.append(message.round_index)
        trained = get_rule(self.offers[-1].job["federation"]["rule"]).trainable(message.round_index)
        update = self._make_update(self.name, message.round_index, start).select(trained)
        return wire.encode(
            wire.PlainUpdate(
                run_id=message.run_id, round_index=message.round_index, site=self.name, payload=update.to_bytes()
            )
        )


@dataclass
class FaultyTransport:
    """Calls fake sites and spoils what the faults say.

    Attributes:
        unreachable: sites that `sites()` does not name.
        sent, received: lengths of every message, by site.
        stages: (stage, sites) of every exchange.
    """

    fakes: Mapping[str, FakeSite]
    faults: dict[str, Fault] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    stages: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def sites(self) -> Sequence[str]:
        return [name for name in self.fakes if name not in self.unreachable]

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        self.stages.append((stage, tuple(payloads)))
        replies: dict[str, bytes] = {}
        for name in self.fakes:  # In the order of the federation's dictionary, whatever that is.
            if name not in payloads:
                continue
            request = payloads[name]
            self.sent[name] = self.sent.get(name, 0) + len(request)
            reply: bytes | None = self.fakes[name].handle(request)
            if name in self.faults and reply is not None:
                reply = self.faults[name](asked(request), reply)
            if reply is not None:
                self.received[name] = self.received.get(name, 0) + len(reply)
                replies[name] = reply
        return replies


def small_job(**settings: object) -> JobConfig:
    """A job for the fake sites; keys with __ for the dot."""
    defaults = {
        "secure_aggregation.enabled": False,
        "federation.rule": "fedavg",
        "federation.rounds": 3,
        "federation.server_optimizer": "none",
        "federation.server_learning_rate": 1.0,
        "federation.schedule": "constant",
    }
    return override(JobConfig(name="small"), defaults | {k.replace("__", "."): v for k, v in settings.items()})


def federation(names: str, **more: FakeSite) -> dict[str, FakeSite]:
    """One honest site a letter, in that order."""
    return {name: more.get(name, FakeSite(name)) for name in names}


def coordinator(
    job: JobConfig, transport: FaultyTransport, folder: Path, *, weights: Mapping[str, int] | None = None
) -> Coordinator:
    """A coordinator over the transport, every site of it in the roster."""
    return Coordinator(
        job,
        wire.Roster(serial=1, weights=dict(weights or dict.fromkeys(transport.fakes, 1))),
        base_digest=BASE_DIGEST,
        noise_multiplier=1.0,
        rule=get_rule(job.federation.rule),
        transport=transport,
        registry=Registry(folder),
        run_id=RUN_ID,
        deadlines=Deadlines(offer_s=1.0, train_s=1.0),
    )
