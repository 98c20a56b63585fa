"""A whole federation in process, with everything that a site has on its disk."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.coordinators import Known
from tests.world import write_sites
from yoriai import wire
from yoriai.client.base.base_model import load_base
from yoriai.client.offer.job_book import JobBook
from yoriai.client.records.records import read_sites
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.site import Site
from yoriai.client.versions.deliveries import Deliveries
from yoriai.client.versions.own_evaluation import Measuring
from yoriai.config import JobConfig, PolicySection, SiteConfig, SpeedSection
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.messenger import Transport
from yoriai.server.round.registry import Registry
from yoriai.simulations.engines.in_process import InProcessTransport
from yoriai.simulations.experiment.experiment import noise_multiplier
from yoriai.strategies.rule import get_rule, largest_update

KNOWN, NAMES = Known(), ("east", "north", "south")
RUN = "run-1"


class Village:
    """Sites with books, ledgers and identities, on one base."""

    def __init__(self, home: Path, base: Path, closing: ExitStack, **policy: Any) -> None:
        self.home = home
        bench = ModelSession(load_base(str(base), device=torch.device("cpu")), SpeedSection(threads=1))
        closing.callback(bench.close)
        self.bench, self.ledgers, self.books = bench, dict[str, Ledger](), dict[str, JobBook]()
        self.members = {name: KNOWN.identity(name, home) for name in NAMES}
        self.roster = KNOWN.signed_roster(self.members)
        self.measuring: list[Measuring] = []
        section = PolicySection(epsilon_budget=20.0, **policy)  # Asks, as is the default.
        self.sites: dict[str, Site] = {}
        for records in read_sites(write_sites(home / "data", dict.fromkeys(NAMES, 10))):
            name, config = records.name, SiteConfig(name=records.name, policy=section)
            ledger = Ledger.open(home / f"{name}.sqlite", dataset=name, epsilon_budget=20.0, delta=1e-5)
            self.ledgers[name] = closing.enter_context(ledger)
            self.books[name] = JobBook(home / name / "jobs")
            (home / name / "adapters").mkdir()
            measuring = Measuring(records.test, bench, samples=True, progress=None, on_fault=pytest.fail)
            self.measuring.append(measuring)
            deliveries = Deliveries(
                config,
                session=bench,
                ledger=ledger,
                identity=self.members[name],
                book=self.books[name],
                folder=home / name / "adapters",
                on_stored=measuring.add,
            )
            self.sites[name] = Site(
                config,
                records,
                session=bench,
                ledger=ledger,
                identity=self.members[name],
                book=self.books[name],
                deliveries=deliveries,
            )

    def coordinator(self, job: JobConfig, folder: Path, transport: Transport | None = None) -> Coordinator:
        """A coordinator over these sites, who knows that they are asked."""
        n_params = largest_update(get_rule(job.federation.rule), self.bench.initial_adapter(job))
        return Coordinator(
            job,
            wire.Roster(serial=1, weights=dict.fromkeys(NAMES, 1)),
            base_digest=self.bench.base.digest,
            noise_multiplier=noise_multiplier(job, n_params, len(NAMES)),
            rule=get_rule(job.federation.rule),
            transport=transport or InProcessTransport({name: site.handle for name, site in self.sites.items()}),
            registry=Registry(folder),
            run_id=RUN,
            signed_roster=self.roster,
            signing=KNOWN.signing(),
            offer_again_s=0.01,
        )
