"""A site's metrics: budget and charges, what daemon and SuperNode are at, and when its trust files expire.

Whoever can open a connection on this machine reads them, the SuperNode's user among them. So they hold nothing about
records, not even how many there are, and nothing that the operator of another site or the coordinator must not know.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import yoriai
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import is_current
from yoriai.errors import StorageError
from yoriai.system.metrics import Reading

if TYPE_CHECKING:
    from yoriai.client.daemon.daemon_config import DaemonConfig
    from yoriai.client.daemon.message_worker import Health

# By the values of the labels.
_Values = dict[tuple[str, ...], float]
_STATES = ("loading", "ready", "working", "stopping", "failed")


def daemon_readings(config: "DaemonConfig", health: "Health") -> Iterator[Reading]:
    """All metrics of a daemon as they stand. Those of the ledger are of the end of the last message."""
    info: _Values = {(config.site.name, yoriai.__version__): 1.0}
    yield Reading("site_info", "1, with the site's name and Yoriai's version.", "gauge", info, ("site", "version"))
    states: _Values = {(state,): float(state == health.state) for state in _STATES}
    yield Reading("site_state", "1 for the state that the daemon is in.", "gauge", states, ("state",))
    yield _counter("site_messages", "Messages answered since the daemon's start.", health.messages)
    yield _gauge("site_waiting", "Messages that wait for their turn.", health.waiting)
    yield _counter("site_refusals", "Answers since the daemon's start that were a refusal.", health.refusals)
    rounds: _Values = {(health.job,): float(health.round)} if health.job else {}
    yield Reading("site_round", "The round begun last, from 1, of the run accepted last.", "gauge", rounds, ("run",))
    yield from _of_jobs(config)
    yield from _of_ledger(health)
    expiries: _Values = {(paper,): at for paper, at in config.expiries().items()}
    meaning = "When a paper of the consortium expires, in seconds since the epoch."
    yield Reading("site_expiry_timestamp_seconds", meaning, "gauge", expiries, ("paper",))


class _Kept(Protocol):
    @property
    def is_running(self) -> bool: ...

    @property
    def restarts(self) -> int: ...


def node_readings(site: str, kept: _Kept) -> Iterator[Reading]:
    """All metrics of a SuperNode as they stand."""
    info: _Values = {(site, yoriai.__version__): 1.0}
    yield Reading("node_info", "1, with the site's name and Yoriai's version.", "gauge", info, ("site", "version"))
    yield _gauge("node_running", "1 while there is a SuperNode.", kept.is_running)
    yield _counter("node_restarts", "How often the SuperNode was started again.", kept.restarts)


def _of_jobs(config: "DaemonConfig") -> Iterator[Reading]:
    """Nothing where the book cannot be read; without one, no one is asked."""
    try:
        entries = JobBook(config.jobs).entries() if config.jobs is not None else []
    except StorageError:
        return
    waiting = sum(entry.state == "waiting" and is_current(entry, time.time()) for entry in entries)
    yield _gauge("site_jobs_waiting", "Jobs that wait for the operator's answer; worth an alarm.", waiting)


def _of_ledger(health: "Health") -> Iterator[Reading]:
    """Nothing while the ledger has not been read, or cannot be: no number is better than an old one."""
    if health.budget is None:
        return
    for key, name, meaning in (
        ("epsilon_budget", "site_epsilon_budget", "Epsilon that all jobs together may cost."),
        ("spent", "site_epsilon_spent", "Epsilon of all charges so far."),
        ("left", "site_epsilon_left", "Epsilon that is neither spent nor promised to a job."),
    ):
        yield _gauge(name, meaning, health.budget[key])
    yield _counter("site_charged_rounds", "Rounds that the ledger holds a charge for.", health.budget["charged_rounds"])


def _gauge(name: str, meaning: str, value: float) -> Reading:
    return Reading(name, meaning, "gauge", {(): float(value)})


def _counter(name: str, meaning: str, value: float) -> Reading:
    return Reading(name, meaning, "counter", {(): float(value)})
