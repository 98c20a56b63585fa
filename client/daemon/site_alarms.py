"""What of a site needs its operator, as far as its daemon knows: for webhook, mail and the console alike."""

import shutil
import time
from collections.abc import Iterator, Mapping

from yoriai.alarms.alarm import Alarm, disk_alarms, expiry_alarms
from yoriai.client.daemon.daemon_config import DaemonConfig
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import is_current
from yoriai.client.versions.own_checks import OwnChecks
from yoriai.errors import StorageError

LOOK_EVERY_S = 300.0
_PAPERS = {
    "certificate": "the site's certificate",
    "roster": "the roster",
    "revocations": "the revocation list",
}


def site_alarms(config: DaemonConfig, budget: Mapping[str, float] | None) -> list[Alarm]:
    """All that needs the operator now.

    Args:
        budget: as the daemon tells it; None where it does not.
    """
    settings, now = config.site.alarms, time.time()
    papers = {_PAPERS[paper]: at for paper, at in config.expiries().items()}
    return [
        *_waiting(config, now),
        *expiry_alarms(papers, settings, now),
        *disk_alarms(shutil.disk_usage(config.ledgers).free, settings),
        *_budget(settings.epsilon_left, budget),
        *_drift(config),
    ]


def _waiting(config: DaemonConfig, now: float) -> Iterator[Alarm]:
    """Nothing where the book cannot be read; the daemon's log and `site check` say so."""
    try:
        entries = JobBook(config.jobs).entries() if config.jobs is not None else []
    except StorageError:
        return
    for entry in entries:
        if entry.state == "waiting" and is_current(entry, now):
            yield Alarm("job_waits", entry.run_id, "Job {run} waits for your answer.", {"run": entry.run_id})


def _budget(least: float, budget: Mapping[str, float] | None) -> Iterator[Alarm]:
    if budget is not None and budget["left"] < least:
        values = {"left": f"{budget['left']:.2f}", "whole": f"{budget['epsilon_budget']:g}"}
        yield Alarm("budget", "budget", "Epsilon {left} of {whole} is left.", values)


def _drift(config: DaemonConfig) -> Iterator[Alarm]:
    if config.channels is not None and OwnChecks(config.channels).has_drifted():
        yield Alarm("drift", "production", "The version in use has come to answer worse on this site's test records.")
