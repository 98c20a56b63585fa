"""What may be done from a server's console: each calls what the command of its name calls, with the same checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from yoriai.console.forms import chosen, must_agree
from yoriai.console.pages import Action
from yoriai.errors import ConfigError
from yoriai.privacy.statements.version_statement import CHANNELS
from yoriai.server.channels import changing as channels
from yoriai.server.channels.version_pages import card_faults
from yoriai.server.console.watched import WatchedServer
from yoriai.server.jobs import job_orders
from yoriai.server.jobs.job_store import JobStore
from yoriai.server.jobs.recording import records_of
from yoriai.server.versions.metrics import read_metrics


class ServerActs:
    """See the module.

    Args:
        watched: whose pages are read again after it.
    """

    def __init__(self, watched: WatchedServer) -> None:
        self._watched, self._folder = watched, watched.folder

    def actions(self) -> list[Action]:
        """All of them."""
        return [
            Action("cancel", "Cancelled", self._cancel, "/jobs"),
            Action("resume", "Resumed", self._resume, "/jobs"),
            Action("end", "Ended early", self._end, "/jobs"),
            Action("promote", "Promoted", self._promote, "/versions"),
            Action("rollback", "Rolled back", self._roll_back, "/versions"),
        ]

    def _cancel(self, form: Mapping[str, str]) -> Sequence[str]:
        must_agree(form)
        return self._of_job(job_orders.cancel(self._jobs().find(_run(form))))

    def _resume(self, form: Mapping[str, str]) -> Sequence[str]:
        return self._of_job(job_orders.resume(self._jobs().find(_run(form)), self._folder.path))

    def _end(self, form: Mapping[str, str]) -> Sequence[str]:
        must_agree(form)
        return self._of_job(job_orders.end(self._jobs().find(_run(form))))

    def _promote(self, form: Mapping[str, str]) -> Sequence[str]:
        reason = channels.check_reason("force" in form, form.get("why", ""))
        path = form.get("metrics", "").strip()
        measured = read_metrics(Path(path)) if path else None
        with records_of(self._folder) as records:
            done = channels.promote(records, _run(form), chosen(form, "channel", CHANNELS), measured, force_why=reason)
            return [*done.told, *card_faults(records, done.version)]

    def _roll_back(self, form: Mapping[str, str]) -> Sequence[str]:
        must_agree(form)
        with records_of(self._folder) as records:
            return channels.roll_back(records, chosen(form, "channel", CHANNELS), form.get("why", "")).told

    def _jobs(self) -> JobStore:
        self._folder.check_user()
        return JobStore(self._folder.jobs)

    def _of_job(self, said: str) -> Sequence[str]:
        self._watched.changed()
        return [said]


def _run(form: Mapping[str, str]) -> str:
    run = form.get("run", "")
    if not run:
        raise ConfigError("the form names no run")  # An empty name would mean the last one.
    return run
