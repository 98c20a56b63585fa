"""A small federation under secure aggregation: real sites, and a coordinator or a hostile hand that drives them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from tests.coordinators import asked
from tests.simulations.miniature import Miniature
from yoriai import wire
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.site import Site
from yoriai.errors import RoundError
from yoriai.privacy.job_terms.round_terms import first_range
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.server.round.sealing import Sealer
from yoriai.simulations.engines.in_process import InProcessTransport
from yoriai.simulations.experiment.experiment import noise_multiplier
from yoriai.simulations.scenarios.consortium import Consortium
from yoriai.strategies.rule import get_rule

# One round, its mean update added as it is, so that the adapter after it is the mean.
SETTINGS = {
    "federation.rounds": 1,
    "federation.server_optimizer": "none",
    "federation.server_learning_rate": 1.0,
    "federation.schedule": "constant",
    "privacy.spare_rounds": 1,
}


class World:
    """Four sites and what a coordinator of theirs needs."""

    def __init__(self, mini: Miniature, folder: Path, open_ledgers: ExitStack, **settings: object) -> None:
        dotted = {key.replace(".", "__"): value for key, value in {**SETTINGS, **settings}.items()}
        self.federation = mini.federation(folder, **dotted)
        self.job, self.folder = self.federation.job, folder
        self.session = mini.session(self.federation)
        self.secure = self.job.secure_aggregation.enabled
        self.consortium = Consortium.found(
            folder / "consortium", self.federation.roster.weights, federation=self.job.name
        )
        self.open_ledgers = open_ledgers
        self.specs = {records.name: self.federation.spec(records, self.consortium) for records in self.federation.sites}
        self.ledgers = {n: open_ledgers.enter_context(s.open_ledger()) for n, s in self.specs.items()}
        self.sites = {name: self.build(name) for name in self.specs}

    def build(self, name: str, session: ModelSession | None = None) -> Site:
        return self.specs[name].build(session or self.session, self.ledgers[name])

    def coordinator(self, transport: "Dropping", *, delivers: bool = False) -> Coordinator:
        return Coordinator(
            self.job,
            self.federation.roster,
            base_digest=self.session.base.digest,
            noise_multiplier=self.federation.noise_multiplier,
            rule=get_rule(self.job.federation.rule),
            transport=transport,
            registry=Registry(self.folder),
            run_id="run-1",
            signed_roster=self.consortium.signed_roster() if self.secure else None,
            signing=self.consortium.signing(),
            delivers=delivers,
            offer_again_s=0.01,
        )

    def sealed(self, site: str, message: wire.Message) -> bytes:
        """The message as the coordinator's instruction to a site; another one each time."""
        return Sealer(self.consortium.signing(), message.run_id).sealed(site, wire.encode(message))

    def ask(self, site: str, message: wire.Message) -> bytes:
        """What a site answers to the coordinator."""
        return self.sites[site].handle(self.sealed(site, message))

    def run(self, transport: "Dropping | None" = None, **callbacks: Callable[..., None]) -> Checkpoint:
        transport = transport or Dropping(self.sites)
        return self.coordinator(transport).run(self.session.initial_adapter(self.job), **callbacks)

    def trained(self, checkpoint: Checkpoint) -> np.ndarray:
        return checkpoint.adapter.select(("R",)).flatten()

    def trained_at_start(self) -> np.ndarray:
        return self.session.initial_adapter(self.job).select(("R",)).flatten()

    def step(self) -> float:
        """Distance of two levels of the first round's grid."""
        weights = self.federation.roster.weights
        value_range = first_range(self.job, noise_multiplier(self.job), min(weights.values()))
        return 2 * value_range / (2**self.job.secure_aggregation.bits - 1)


class Dropping(InProcessTransport):
    """Loses what some sites say from a stage on, and keeps every byte that the others said."""

    def __init__(self, sites: Mapping[str, Site], lost: Mapping[str, str] | None = None) -> None:
        super().__init__({name: site.handle for name, site in sites.items()})
        self.lost, self.said = dict(lost or {}), []
        self.stages: list[str] = []

    said: list[bytes]

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        self.stages.append(stage)
        silent = {site for site, since in self.lost.items() if since in self.stages}
        replies = super().exchange(stage, {s: p for s, p in payloads.items() if s not in silent}, timeout_s)
        self.said += replies.values()
        return replies


class Cheat:
    """A coordinator that drives one round by hand and keeps what it needs to ask again."""

    def __init__(self, secure: World) -> None:
        self.world = secure
        self.asked: dict[str, dict[str, bytes]] = {}

    def run_to(self, stage: str) -> None:
        """Run an honest round up to and with this stage, keeping every request; the run then ends."""
        transport = _Recorder(self.world.sites, stage, self.asked)
        with suppress(RoundError):
            self.world.run(transport)

    def again(self, site: str, stage: str) -> wire.Message:
        """Send a site the same request once more, signed anew."""
        return wire.decode(self.world.ask(site, asked(self.asked[stage][site])))


class _Recorder(Dropping):
    """Passes stages on up to one, then goes silent for good."""

    def __init__(self, sites: Mapping[str, Site], last: str, asked: dict[str, dict[str, bytes]]) -> None:
        super().__init__(sites)
        self._last, self._asked, self._over = last, asked, False

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        if self._over:
            return {}
        self._asked[stage] = dict(payloads)
        self._over = stage == self._last
        return super().exchange(stage, payloads, timeout_s)


def offer(secure: World, **changes: object) -> wire.JobOffer:
    fields: dict[str, object] = {
        "run_id": "run-1",
        "job": secure.job.model_dump(mode="json", by_alias=True),
        "roster": secure.federation.roster,
        "signed_roster": secure.consortium.roster_file().decode(),
        "base_digest": secure.session.base.digest,
        "noise_multiplier": secure.federation.noise_multiplier,
        "payload": secure.session.initial_adapter(secure.job).to_bytes(),
    }
    return wire.JobOffer(**{**fields, **changes})


def reason(secure: World, message: wire.Message) -> str:
    reply = wire.decode(secure.ask("north", message))
    assert isinstance(reply, wire.Refusal)
    return reply.reason


def masked_request(secure: World, **changes: object) -> wire.TrainRequest:
    """An honest request for the first slot of the first window."""
    start = secure.session.initial_adapter(secure.job)
    fields: dict[str, object] = {
        "run_id": "run-1",
        "round_index": 0,
        "adapter_digest": start.digest(),
        "value_range": 1.0,
        "window": 0,
        "slot": 0,
        "payload": start.select(("R",)).to_bytes(),
    }
    return wire.TrainRequest.model_construct(**{**fields, **changes})  # Unchecked, as a hostile one would.
