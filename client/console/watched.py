"""What a console of a site shows: values of the functions behind the commands, each read no oftener than it needs.

The ledger is added up when it has changed, and only while somebody looks. Nothing here talks to the server.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from yoriai.alarms.alarm import Alarm
from yoriai.client.cli.adapter.measured import sentence, verdict
from yoriai.client.cli.budget import BudgetView, ChargeView, view_of
from yoriai.client.cli.jobs_table import JobView, job_views
from yoriai.client.cli.jobs_terms import Row, budget_of, records_here, terms_rows
from yoriai.client.cli.own_ledger import opened, places_of
from yoriai.client.cli.room import Room, room_for
from yoriai.client.cli.site_status import site_status
from yoriai.client.console.burnt import burnt_by_job
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.daemon.site_alarms import site_alarms
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node_alarms import node_alarms
from yoriai.client.offer.charge_names import run_and_kind
from yoriai.client.offer.decision_log import DecisionLog
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Entry, is_current
from yoriai.client.offer.usual import unusual
from yoriai.client.versions.adapter_place import CERTIFICATE, STATEMENT
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.given_counts import given_counts
from yoriai.client.versions.own_checks import OwnChecks, is_worse
from yoriai.comparison import wilson_interval
from yoriai.console.pages import Asked
from yoriai.console.recent import Recent, Unchanged, marks_of
from yoriai.errors import ConfigError, YoriaiError
from yoriai.privacy.statements.version_statement import CHANNELS, unverified_version

_LOOK_S: Final = 2.0
_SHOWN_CHARGES: Final = 100


class WatchedSite:
    """See the module.

    Args:
        site: its folder.
    """

    def __init__(self, site: SiteFolder) -> None:
        self.site = site
        self._status = Recent(lambda: _with_all_names(site_status(site.path)), _LOOK_S)
        self._ledger = Unchanged(self._read_ledger, self._marks)
        self._forecast = Unchanged(self._read_forecast, self._marks)
        self._config = config_in(site.path)

    def changed(self) -> None:
        """Something was done: what is kept of the daemon is read again."""
        self._status.forget()

    @property
    def book(self) -> JobBook:
        """The site's jobs."""
        return JobBook(self.site.jobs)

    def overview(self, _asked: Asked) -> dict[str, Any]:
        """The site at a glance."""
        entries = self._current()
        return {
            "status": self._status(),
            "alarms": self.alarms(),
            "waiting": [entry for entry in entries if entry.state == "waiting"],
            "at_work": [entry for entry in entries if entry.state == "accepted"],
            "ledger": self._ledger(),
            "whole": self.site.config().policy.epsilon_budget,
            "forecast": self._forecast(),
            "channels": self._channels(),
        }

    def alarms(self) -> list[Alarm]:
        """What needs the operator: what the daemon would tell, and what only who looks at the folder knows."""
        status = self._status()
        found = [] if status["reachable"] else [Alarm("not_running", "daemon", "The site's daemon does not answer.")]
        found += _of_node(status["node"])
        found += site_alarms(self._config, status.get("budget"))
        for view in self._views():
            if view.evaluation is not None and verdict(view.evaluation) == "loss":
                text = "The adapter of {run} is shown to answer worse here than the bare base."
                found.append(Alarm("drift", view.entry.run_id, text, {"run": view.entry.run_id}))
        return found

    def jobs(self, asked: Asked) -> dict[str, Any]:
        """What was offered, decided, and came of it, the newest first."""
        every = asked.query.get("all") == "1"
        shown = self.book.entries() if every else self._current()
        views = [_job_line(view) for view in reversed(job_views(shown, self.site.adapters))]
        return {"jobs": views, "every": every}

    def job(self, asked: Asked) -> dict[str, Any]:
        """The terms of one job, in words and as the command shows them. Raises ConfigError where there is none."""
        entry = self.book.find(asked.path["run"])
        job, budget = entry.terms.config(), budget_of(self.site)
        room = room_for(self.site, entry.terms) if entry.state in ("waiting", "refused") else None
        (view,) = job_views([entry], self.site.adapters)
        return {
            "entry": entry,
            "job": job,
            "budget": budget,
            "room": room,
            "rows": [*terms_rows(entry, budget, room), Row("records here", records_here(self.site, job))],
            "odd": list(unusual(job, entry.terms.noise_multiplier).values()),
            "view": _job_line(view),
        }

    def budget(self, _asked: Asked) -> dict[str, Any]:
        """What the budget was spent on, what is held and left, and what still fits."""
        view = self._ledger()
        return {
            "ledger": view,
            "whole": self.site.config().policy.epsilon_budget,
            "delta": self.site.config().policy.delta,
            "burnt": burnt_by_job(view) if view else [],
            "charges": [_charge_line(one) for one in reversed(view.charges[-_SHOWN_CHARGES:])] if view else [],
            "forecast": self._forecast(),
        }

    def adapters(self, _asked: Asked) -> dict[str, Any]:
        """What was delivered, what it is worth on this site's own test records, and what is in use."""
        views = [_job_line(view) for view in reversed(self._views()) if view.folder is not None]
        return {
            "adapters": views,
            "channels": self._channels(),
            "all_channels": CHANNELS,
            "checks": self._checks(),
            "given": given_counts(self.site.channels),
            "policy": self.site.config().policy,
        }

    def officer(self, _asked: Asked) -> dict[str, Any]:
        """Ledger, policy and its changes, decisions, and what the coordinator has signed."""
        view = self._ledger()
        return {
            "ledger": view,
            "policy": self.site.config().policy.model_dump(),
            "decisions": list(reversed(DecisionLog(self.site.jobs, time.time).all())),
            "certificates": [_certificate(one) for one in reversed(self._views()) if one.folder is not None],
        }

    def ledger_export(self, _asked: Asked) -> bytes:
        """The ledger, as `site budget --json` prints it."""
        view = self._read_ledger()
        return json.dumps({"schema": 1, "ledgers": [view.as_json()] if view else []}, indent=1).encode()

    def decisions_export(self, _asked: Asked) -> bytes:
        """Every decision, a JSON document a line."""
        found = DecisionLog(self.site.jobs, time.time).all()
        return "".join(json.dumps(asdict(each)) + "\n" for each in found).encode()

    def _current(self) -> list[Entry]:
        now = time.time()
        return [entry for entry in self.book.entries() if is_current(entry, now)]

    def _views(self) -> list[JobView]:
        return job_views(self.book.entries(), self.site.adapters)

    def _marks(self) -> object:
        """By which a change of ledger, job book or policy is seen."""
        return marks_of((places_of(self.site)[0], self.site.jobs, self.site.settings))

    def _read_ledger(self) -> BudgetView | None:
        with opened(self.site) as ledger:
            return None if ledger is None else view_of(ledger, places_of(self.site)[0])

    def _read_forecast(self) -> tuple[str, Room] | None:
        """The last job with privacy that the site took part in, and how many more like it fit."""
        taken = [entry for entry in self.book.entries() if entry.state in ("accepted", "delivered", "ended")]
        for entry in reversed(taken):
            with suppress(ConfigError):
                room = room_for(self.site, entry.terms)
                if room is not None:
                    return entry.run_id, room
        return None

    def _channels(self) -> list[dict[str, Any]]:
        return [self._channel(channel) for channel in CHANNELS]

    def _checks(self) -> list[dict[str, Any]]:
        """The site's own checks of versions, the newest first: exact, and for its own eyes."""
        first, lines = dict[int, list[int]](), []
        for number, period, *counts in OwnChecks(self.site.channels).entries():
            began = first.setdefault(number, counts)
            low, high = wilson_interval(counts[0], sum(counts))
            worse = is_worse(began, counts)
            lines.append({"number": number, "period": period, "counts": counts, "bounds": (low, high), "worse": worse})
        return lines[::-1]

    def _channel(self, channel: str) -> dict[str, Any]:
        """What is in use in a channel: its number, and the run by the coordinator's statement."""
        place = ChannelPlace(self.site.channels, channel)
        number, run = place.current(), ""
        if number is not None:
            with suppress(OSError, YoriaiError):
                run = unverified_version((place.folder_of(number) / STATEMENT).read_bytes()).run_id
        waits = place.delivered()
        return {
            "name": channel,
            "number": number,
            "run": run,
            "link": str(place.link),
            "waits": waits if waits is not None and waits > (number or 0) else None,
        }


def _with_all_names(status: Mapping[str, Any]) -> dict[str, Any]:
    """A site's status with what a daemon, or a SuperNode, that does not answer leaves out."""
    node = {"server": "", "running": False, "waits": False, "accepted": None, "server_says": "", **status["node"]}
    return {"state": "", "job": "", "round": 0, "last_error": "", **status, "node": node}


def _job_line(view: JobView) -> dict[str, Any]:
    """A job for a table; without its settings where it is of an earlier version."""
    entry, evaluation = view.entry, view.evaluation
    before, after = ((evaluation or {}).get(when, {}).get("accuracy") for when in ("before", "after"))
    return {
        "run": entry.run_id,
        "state": entry.state,
        "name": view.job.name if view.job else "",
        "rounds": view.job.federation.rounds if view.job else None,
        "epsilon": entry.terms.epsilon,
        "sites": len(entry.terms.weights),
        "seen_at": entry.seen_at,
        "decided_by": entry.decided_by,
        "reason": entry.reason,
        "folder": str(view.folder) if view.folder else "",
        "before": before,
        "after": after,
        "verdict": verdict(evaluation) if evaluation else "",
        "measured": sentence(evaluation) if evaluation else "",
    }


def _charge_line(charge: ChargeView) -> dict[str, Any]:
    run, kind = run_and_kind(charge.job)
    return {**asdict(charge), "run": run, "kind": kind}


def _of_node(node: Mapping[str, Any]) -> list[Alarm]:
    """What the SuperNode's keeper says that needs somebody; nothing where it is not to be seen from here."""
    if node["reachable"] is None:
        return []
    if not node["reachable"] or not node["running"]:
        return [Alarm("not_running", "node", "The SuperNode does not run.")]
    return list(node_alarms(node))


def _certificate(view: JobView) -> dict[str, Any]:
    """What the coordinator has signed for a job: the files, whose word `site pull` and the daemon have verified."""
    assert view.folder is not None
    texts = {}
    for name in (STATEMENT, CERTIFICATE):
        with suppress(OSError):
            texts[name] = (view.folder / name).read_text(encoding="utf-8", errors="replace")
    terms = view.entry.terms
    return {
        "run": view.entry.run_id,
        "epsilon": terms.epsilon,
        "accountant": terms.accountant,
        "noise_multiplier": terms.noise_multiplier,
        "statement": texts.get(STATEMENT, ""),
        "certificate": texts.get(CERTIFICATE, ""),
    }
