"""What a simulated site is built from, here or in another process."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from yoriai.client.records.records import SiteRecords, fingerprint
from yoriai.client.records.units import unit_count
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.personal import personal_event
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.client.site_identity import SiteIdentity
from yoriai.config import JobConfig, PolicySection, SiteConfig
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.dp.randomness import RandomSource, SeededSource, SystemSource
from yoriai.privacy.identity.roster import RosterMemory
from yoriai.privacy.job_terms.noise import all_rounds
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.order import budget_for
from yoriai.privacy.secagg.shamir import Entropy
from yoriai.privacy.secagg.work import OwnWork, Work
from yoriai.privacy.statements.instruction import SequenceMemory
from yoriai.simulations.scenarios.consortium import Consortium


def seeded_entropy(seed: bytes, name: str) -> Callable[[int], Entropy]:
    """Random bytes for a site's keys and rounding by round, for tests only.

    The same in a resumed run, others when a process repeats a round.
    """
    attempts = Counter[int]()

    def of_round(round_index: int) -> Entropy:
        attempts[round_index] += 1
        key = b"%b:%b:%d:%d" % (seed, name.encode(), round_index, attempts[round_index])
        drawn = count()
        return lambda n: hashlib.shake_256(b"%b:%d" % (key, next(drawn))).digest(n)

    return of_round


@dataclass(frozen=True)
class SiteSpec:
    """All that it takes to build a simulated site, here or in another process.

    Attributes:
        ledger_path: the site's ledger; kept with the run, so that a resumed run goes on charging it.
        event: what a round of the job costs; None without privacy.
        consortium: folder of the site's key and certificate; None without secure aggregation.
        noise_seed: tests only; makes sampling, noise and keys repeatable and so voids every guarantee.
    """

    job: JobConfig
    records: SiteRecords
    ledger_path: Path
    event: Event | None = None
    consortium: Path | None = None
    noise_seed: bytes | None = None

    def site_config(self) -> SiteConfig:
        """The policy of a simulated site: exactly what its job asks for, and nothing beyond."""
        privacy = self.job.privacy
        policy = PolicySection(
            epsilon_budget=self.epsilon_budget(),
            delta=privacy.delta,
            unit=privacy.unit,
            max_records=max(1, unit_count(self.records.train, privacy)),
            min_sites=self.job.federation.min_sites,
            rules=(self.job.federation.rule,),
            allow_plain_updates=not self.job.secure_aggregation.enabled,
            allow_distributed_noise=privacy.noise == "distributed",
            colluding=privacy.colluding,
            allow_no_privacy=privacy.noise == "none",
        )
        return SiteConfig(name=self.records.name, policy=policy)

    def epsilon_budget(self) -> float:
        """The job's epsilon or, with a personal adapter, what the ledger makes of both by its filter."""
        privacy = self.job.privacy
        own = personal_event(self.job)
        if own is None or self.event is None:
            return privacy.epsilon
        return budget_for([(self.event, all_rounds(self.job)), (own, 1)], privacy.delta, at_least=privacy.epsilon)

    def randomness(self, run_id: str, round_index: int) -> RandomSource:
        """The source for one round. A seeded one does not depend on the run's id, which differs from run to run."""
        if self.noise_seed is None:
            return SystemSource()
        return SeededSource(b"%b:%b:%d" % (self.noise_seed, self.records.name.encode(), round_index))

    def identity(self, work: Work | None = None) -> SiteIdentity | None:
        """The site's identity in its consortium; with what it shares with the other sites of its process."""
        if self.consortium is None:
            return None
        consortium, name = Consortium(self.consortium), self.records.name
        key, certificate = consortium.key(name), consortium.certificate(name)
        identity = SiteIdentity(
            key, certificate, consortium.trust, RosterMemory(None), SequenceMemory(None), work=work or OwnWork()
        )
        if self.noise_seed is None:
            return identity
        return replace(identity, entropy=seeded_entropy(self.noise_seed, name))

    def open_ledger(self, *, synced: bool = False) -> Ledger:
        """The site's ledger, made when missing; the round that is stored syncs all of them at once, or each its own."""
        privacy = self.job.privacy
        return Ledger.open(
            self.ledger_path,
            dataset=self.records.name,
            epsilon_budget=self.epsilon_budget(),
            delta=privacy.delta,
            fingerprint=fingerprint(self.records.train),
            accountant=privacy.accountant,
            unit=privacy.unit,
            synced=synced,
        )

    def build(
        self, session: ModelSession, ledger: Ledger, hooks: SiteHooks | None = None, work: Work | None = None
    ) -> Site:
        """The site itself; whoever opened its ledger closes it. `work` is what all sites of a process share."""
        return Site(
            self.site_config(),
            self.records,
            session=session,
            ledger=ledger,
            identity=self.identity(work),
            hooks=hooks or SiteHooks(randomness=self.randomness),
        )
