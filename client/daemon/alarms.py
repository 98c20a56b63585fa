"""Alarms of a site: a job that waits for its operator's answer is told once, and again each day that it still waits;
so is a version in use that has come to answer worse (`client/versions/own_checks.py`).

An alarm is a line in the log and, where site.toml names one in [alarms], a command: run without a shell, as the
daemon's user and within its unit's limits (no network but this machine's own), with what happened in its environment.
It hears nothing of the job but the run's id. What it prints goes nowhere; that it fails, or hangs, holds nothing up.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from yoriai.system.log import EventLog

_AGAIN_S = 86_400.0
_LONGEST_S = 60.0
_MOST_RUNS = 1000
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")


class Alarms:
    """See the module.

    Args:
        site: its name.
        command: program and arguments; empty: the log alone.
        log: of the daemon.
        clock: seconds, of any beginning.
    """

    def __init__(
        self, site: str, command: Sequence[str], log: EventLog, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._site, self._command, self._log, self._clock = site, tuple(command), log, clock
        self._told: dict[tuple[str, str], float] = {}

    def job_waits(self, run_id: str) -> None:
        """Tell that a run waits for an answer, unless that was told in the last day."""
        self._tell("job_waits", run_id)

    def drifts(self, run_id: str) -> None:
        """Tell that the version of a run, which is in use, has come to answer worse, unless that was told today."""
        self._tell("drift", run_id)

    def _tell(self, what: str, run_id: str) -> None:
        now, key = self._clock(), (what, run_id)
        if key in self._told and now - self._told[key] < _AGAIN_S:
            return
        if len(self._told) >= _MOST_RUNS:
            self._told.clear()
        self._told[key] = now
        self._log.event("alarm", what=what, run=run_id)
        if self._command:
            threading.Thread(target=self._run, args=(what, run_id), name="alarm", daemon=True).start()

    def _run(self, what: str, run_id: str) -> None:
        own = {name: value for name, value in os.environ.items() if name in _PASSED}
        # The coordinator names its runs, and no environment holds a NUL.
        told = {"YORIAI_ALARM": what, "YORIAI_SITE": self._site, "YORIAI_RUN": run_id.replace("\0", "?")}
        try:
            done = subprocess.run(
                self._command,
                env={**own, **told},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_LONGEST_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._log.event("alarm_failed", error=type(error).__name__)
            return
        if done.returncode != 0:
            self._log.event("alarm_failed", code=done.returncode)
