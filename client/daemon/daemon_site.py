"""The site behind the message worker: base, records, keys and ledger, opened once. The daemon's one heavy module."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Protocol

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.daemon.alarms import Alarms
from yoriai.client.daemon.daemon_config import DaemonConfig
from yoriai.client.offer.costing import CostWorker
from yoriai.client.offer.job_book import JobBook
from yoriai.client.records.columns import Reading
from yoriai.client.records.records import fingerprint, read_site
from yoriai.client.records.units import policy_units
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.client.site_identity import SiteIdentity
from yoriai.client.versions.channel_inbox import ChannelInbox
from yoriai.client.versions.deliveries import Deliveries
from yoriai.client.versions.judging import Judge
from yoriai.client.versions.own_evaluation import Measuring
from yoriai.privacy.dp.accounting import Accountant, Cost, Events
from yoriai.privacy.ledger.book import Head
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.system.log import EventLog, take_over_libraries


class ClosableCosting(Protocol):
    """Adds up what jobs cost, and may have a process to end."""

    def __call__(self, events: Events, delta: float, accountant: Accountant = "pld") -> Cost:
        """As `accounting.cost`."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...


class LoadedSite:
    """A site with its base in memory and its ledger open; use `open_site`."""

    def __init__(self, site: Site, ledger: Ledger, measuring: Measuring, costing: ClosableCosting) -> None:
        self._site, self._ledger, self._measuring, self._costing = site, ledger, measuring, costing
        self._budget: tuple[Head, dict[str, float]] | None = None

    def handle(self, data: bytes) -> bytes:
        """Answer one message."""
        return self._site.handle(data)

    def afterwards(self) -> None:
        """Measure the adapters that came with the last message, and judge what it asked about."""
        self._measuring.work_off()
        self._site.afterwards()

    def budget(self) -> Mapping[str, float]:
        """The data set's budget, what is spent, and what neither is spent nor promised, in epsilon; rounds charged."""
        head = self._ledger.head()
        if self._budget is None or self._budget[0] != head:  # Adding up takes time, and most messages cost nothing.
            total = self._ledger.policies()[-1].policy.epsilon_budget
            left = max(0.0, total - self._ledger.promised())
            spent, charged = self._ledger.spent(), sum(1 for _ in self._ledger.charges())
            self._budget = head, {"epsilon_budget": total, "spent": spent, "left": left, "charged_rounds": charged}
        return self._budget[1]

    def close(self) -> None:
        """Close the ledger, and end the process that adds up."""
        self._ledger.close()
        self._costing.close()


def open_site(
    config: DaemonConfig,
    log: EventLog,
    checkpoint: Callable[[], None],
    hooks: SiteHooks | None = None,
    costing: ClosableCosting | None = None,
) -> LoadedSite:
    """Read the records, load the base, open the ledger.

    Args:
        checkpoint: called at every step of training and of the prefix, and while it is added up what a job costs; may
            raise to give the message up.
        hooks: for tests; a deployed site takes the defaults.
        costing: for measurements of many sites on one machine; a deployed site has a CostWorker of its own.

    Raises:
        YoriaiError: records, base, keys or ledger are not as they should be.
    """
    take_over_libraries(log)
    alarms = Alarms(config.site.name, config.site.alarms.command, log)
    records = read_site(config.site.name, config.data, Reading.of(config.site.records))
    identity = config.identity() if config.identity is not None else None
    hooks = _watched(hooks or SiteHooks(), log, checkpoint)
    if policy_units(records.train, config.site.policy.unit) > config.site.policy.max_records:
        # No reason to stop: that the site is gone would be an answer that depends on its records.
        hooks.on_fault("policy.max_records is less than there are: jobs may have too large a delta; raise it")
    with quiet_libraries():
        base = load_base(config.base, device=choose_device(config.speed.device))
    site_policy = config.site.policy
    policy = Policy(site_policy.epsilon_budget, site_policy.delta, unit=site_policy.unit)
    with ExitStack() as undone_on_error:
        adding = costing or CostWorker(config.site.name, checkpoint=checkpoint)
        undone_on_error.enter_context(closing(adding))
        ledger = undone_on_error.enter_context(
            open_in_folder(
                config.ledgers,
                config.dataset,
                fingerprint(records.train),
                policy,
                witnesses=config.witnesses,
                costing=adding,
            )
        )
        session = ModelSession(base, config.speed)
        measuring = Measuring(
            records.test,
            session,
            samples=config.site.records.sample_answers,
            progress=hooks.on_prefix,
            on_fault=hooks.on_fault,
        )
        book = JobBook(config.jobs) if config.jobs is not None else None
        site = Site(
            config.site,
            records,
            session=session,
            ledger=ledger,
            identity=identity,
            hooks=hooks,
            book=book,
            deliveries=_deliveries(config, session, ledger=ledger, identity=identity, book=book, measuring=measuring),
            channels=_channels(config, session, ledger=ledger, identity=identity, hooks=hooks, alarms=alarms),
        )
        undone_on_error.pop_all()
    return LoadedSite(site, ledger, measuring, adding)


def _deliveries(
    config: DaemonConfig,
    session: ModelSession,
    *,
    ledger: Ledger,
    identity: SiteIdentity | None,
    book: JobBook | None,
    measuring: Measuring,
) -> Deliveries | None:
    """What takes last adapters; None at a site that lacks the means to check or to keep them."""
    if book is None or identity is None or config.adapters is None:
        return None
    return Deliveries(
        config.site,
        session=session,
        ledger=ledger,
        identity=identity,
        book=book,
        folder=config.adapters,
        on_stored=measuring.add,
    )


def _channels(
    config: DaemonConfig,
    session: ModelSession,
    *,
    ledger: Ledger,
    identity: SiteIdentity | None,
    hooks: SiteHooks,
    alarms: Alarms,
) -> ChannelInbox | None:
    """What takes what the server's channels hold; None at a site that lacks the means to check or to keep it."""
    if identity is None or config.channels is None:
        return None
    name = config.site.name
    judge = Judge(
        config.site,
        config.channels,
        session=session,
        ledger=ledger,
        identity=identity,
        records=lambda: read_site(name, config.data, Reading.of(config.site.records)).test,
        on_fault=hooks.on_fault,
        on_drift=alarms.drifts,
        progress=hooks.on_prefix,
    )
    return ChannelInbox(name, config.channels, base_digest=session.base.digest, trust=identity.trust, judge=judge)


def _watched(hooks: SiteHooks, log: EventLog, checkpoint: Callable[[], None]) -> SiteHooks:
    """The hooks, with the checkpoint at every step and faults of the records in the log: by place, never by text."""

    def on_prefix(done: int, total: int) -> None:
        checkpoint()
        if hooks.on_prefix is not None:
            hooks.on_prefix(done, total)

    def on_step(done: int) -> None:
        checkpoint()
        if hooks.on_step is not None:
            hooks.on_step(done)

    return replace(
        hooks, on_prefix=on_prefix, on_step=on_step, on_fault=lambda line: log.event("records_or_code", fault=line)
    )
