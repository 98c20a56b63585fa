"""What a console of a server shows: values of the functions behind the commands.

Who is connected takes a process of Flower's, and a thousand certificates half a second: both are looked at once a
minute at most, and only while somebody looks. Nothing here talks to a site.
"""

import json
import re
import shutil
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from yoriai.alarms.alarm import Alarm
from yoriai.console.pages import Asked
from yoriai.console.recent import Recent
from yoriai.errors import RoundError, YoriaiError
from yoriai.privacy.statements.version_statement import CHANNELS
from yoriai.server.channels.version_views import facts_of, versions_view
from yoriai.server.flower.flower_control import FlowerControl, Seen
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore
from yoriai.server.jobs.recording import records_of
from yoriai.server.service.keeper_lock import keeper_of
from yoriai.server.service.server_alarms import papers_of, server_alarms
from yoriai.server.service.status import Member, absent_in, job_view, members_of, server_view
from yoriai.server.versions import catalogue
from yoriai.server.versions.log import EVENTS, newest_rows, rows, verified_head

_MEMBERS_S: Final = 60.0
_LOOK_S: Final = 2.0
_LOG_ROWS: Final = 200
_DIGEST: Final = re.compile(r"[0-9a-f]{64,}")
# By the beginning of a member's state, as `server status` has it.
KINDS: Final[Mapping[str, str]] = {
    "online": "good",
    "offline": "idle",
    "not registered": "warn",
    "barred": "bad",
    "unknown": "warn",
}


class WatchedServer:
    """See the module.

    Args:
        folder: of the server.
    """

    def __init__(self, folder: ServerFolder) -> None:
        self.folder = folder
        self._members = Recent(lambda: members_of(folder, self._ask_flower()), _MEMBERS_S)
        self._status = Recent(self._read_status, _LOOK_S)

    def changed(self) -> None:
        """Something was done: what is kept of the jobs is read again."""
        self._status.forget()

    def overview(self, _asked: Asked) -> dict[str, Any]:
        """The server at a glance."""
        status, members = self._status(), self._members()
        with records_of(self.folder) as records:
            held = versions_view(records.db)["channels"]
        disk = shutil.disk_usage(self.folder.path)
        return {
            "status": status,
            "job": status["job"],
            "job_sites": _sites_in(status["job"]),
            "alarms": self.alarms(),
            "counts": _counts(members),
            "channels": {channel: held.get(channel) for channel in CHANNELS},
            "disk": {"free": disk.free, "total": disk.total},
        }

    def alarms(self) -> list[Alarm]:
        """What needs somebody."""
        return server_alarms(self.folder, self._members(), is_kept=self._status()["running"])

    def sites(self, asked: Asked) -> dict[str, Any]:
        """Every member, in a line of its own."""
        live = JobStore(self.folder.jobs).live()
        absent, job = absent_in(live), self._status()["job"]
        taken = {site for one in (job["took_part"] if job and live else []) for site in one["sites"]}
        wanted = asked.query.get("state", "")
        lines = [_site(name, member, absent.get(name, ""), name in taken) for name, member in self._members().items()]
        return {
            "sites": [line for line in lines if wanted in ("", line["state"])],
            "total": len(lines),
            "states": sorted({line["state"] for line in lines}),
            "wanted": wanted,
            "papers": papers_of(self.folder),
        }

    def jobs(self, _asked: Asked) -> dict[str, Any]:
        """Every job, the newest first."""
        return {"jobs": [job_view(job) for job in reversed(JobStore(self.folder.jobs).jobs())]}

    def job(self, asked: Asked) -> dict[str, Any]:
        """One job. Raises ConfigError where there is none."""
        stored = JobStore(self.folder.jobs).find(asked.path["run"])
        view, settings = job_view(stored), stored.prepared().job
        with records_of(self.folder) as records:
            version = _version_of(records.db, stored.run_id)
        return {"job": view, "settings": settings, "sites": _sites_in(view), "version": version}

    def versions(self, _asked: Asked) -> dict[str, Any]:
        """Versions and channels, the newest first."""
        with records_of(self.folder) as records:
            view = versions_view(records.db)
        return {"versions": list(reversed(view["versions"])), "channels": view["channels"], "all_channels": CHANNELS}

    def version(self, asked: Asked) -> dict[str, Any]:
        """All that is known of a version. Raises ConfigError where there is none."""
        with records_of(self.folder) as records:
            found = catalogue.find(records.db, asked.path["run"])
            facts = facts_of(records.db, found)
        return {"run": found.run, "adapter": found.digest, "facts": facts, "all_channels": CHANNELS}

    def log(self, asked: Asked) -> dict[str, Any]:
        """The newest rows of the signed log that fit the filter."""
        wanted = {name: asked.query.get(name, "").strip() for name in ("event", "run", "site")}
        with records_of(self.folder) as records:
            found = list(islice(newest_rows(records.db, **wanted), _LOG_ROWS + 1))
        lines = [_log_line(row.document) for row in found]
        return {"lines": lines[:_LOG_ROWS], "has_more": len(lines) > _LOG_ROWS, "wanted": wanted, "events": EVENTS}

    def officer(self, _asked: Asked) -> dict[str, Any]:
        """What an officer asks for: what each job promised, the papers, and whether the log holds."""
        with records_of(self.folder) as records:
            versions = [
                {"run": one.run, "statement": one.statement, "metrics": one.metrics}
                for one in reversed(catalogue.versions(records.db))
            ]
            try:
                number, head = verified_head(rows(records.db), [records.key.public_key.public_bytes_raw()])
                log = {"rows": number, "head": head, "fault": ""}
            except YoriaiError as error:
                log = {"rows": 0, "head": "", "fault": str(error)}
        return {"versions": versions, "log": log, "papers": papers_of(self.folder), "config": self.folder.config()}

    def log_export(self, _asked: Asked) -> bytes:
        """All rows of the log, as `server log --json` prints them."""
        with records_of(self.folder) as records:
            return "".join(json.dumps(row.document, sort_keys=True) + "\n" for row in rows(records.db)).encode()

    def statements_export(self, _asked: Asked) -> bytes:
        """The signed statements of all versions, a JSON document a line."""
        with records_of(self.folder) as records:
            found = [one.signed.decode() for one in catalogue.versions(records.db)]
        return json.dumps({"schema": 1, "statements": found}, indent=1).encode()

    def _read_status(self) -> dict[str, Any]:
        states = {site: member.state for site, member in self._members().items()}
        return server_view(self.folder, is_kept=keeper_of(self.folder.run) is not None, sites=states)

    def _ask_flower(self) -> Mapping[int, Seen] | None:
        """None while Flower does not answer; without a server nobody would."""
        if keeper_of(self.folder.run) is None:
            return None
        try:
            return FlowerControl(self.folder.flower_home).seen()
        except RoundError:
            return None


def _counts(members: Mapping[str, Member]) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    for member in members.values():
        counts[_state(member)] += 1
    return counts


def _state(member: Member) -> str:
    return next(state for state in KINDS if member.state.startswith(state))


def _site(name: str, member: Member, absent: str, has_taken_part: bool) -> dict[str, Any]:
    """A member's line.

    What a server knows of a site's clock and version without asking it: Flower takes no node whose clock is 5 s ahead
    or a minute behind, and a site that speaks another protocol is in no round.
    """
    state = _state(member)
    reason = member.state.partition(": ")[2]
    return {
        "name": name,
        "state": state,
        "kind": KINDS[state],
        "reason": reason or absent,
        "since": member.since,
        "clock": state == "online",
        "protocol": has_taken_part,
        "days": None if member.expires is None else int((member.expires - time.time()) // 86_400),
    }


def _sites_in(job: Mapping[str, Any] | None) -> list[str]:
    """The sites that were in a round of a job, or were missing in one."""
    return sorted({site for one in (job["took_part"] if job else []) for site in (*one["sites"], *one["without"])})


def _version_of(db: Any, run: str) -> dict[str, Any] | None:
    if run not in catalogue.known_runs(db):
        return None
    return facts_of(db, catalogue.find(db, run))


def _log_line(document: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("number", "at", "event", "run", "site", "hash", "signature", "key")
    rest = ", ".join(_told(name, value) for name, value in document.items() if name not in shown)
    return {**{name: document.get(name, "") for name in shown[:5]}, "rest": rest}


def _told(name: str, value: Any) -> str:
    """A field of a row in words; of a digest as much as tells it apart, for the export has all of it."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{name} {text[:12]}…" if _DIGEST.fullmatch(text) else f"{name} {text}"
