"""How long a run took, all its sessions together: what passed before an interruption counts too."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from yoriai.simulations.experiment.observers import Observer
from yoriai.system.run_files import write_run_file

_AT_A_SITE = ("steps at site ", "prefix of site ")


class Stopwatch:
    """Wall time in seconds by part of the run and by site, kept in a file.

    It stands between a run and its observer: a site is timed from the moment it is asked to the moment the next one is,
    so that a session that ends half-way leaves its sites' times too.

    Args:
        path: where the seconds of earlier sessions are, and where `save` puts them.
        site_names: sorted, as they are asked.
        observer: is told everything that this is told.
    """

    def __init__(self, path: Path, site_names: Sequence[str], observer: Observer) -> None:
        self._path, self._names, self._observer = path, tuple(site_names), observer
        stored = json.loads(path.read_bytes()) if path.exists() else {}
        self._parts: dict[str, float] = stored.get("parts", {})
        self._sites: dict[str, float] = stored.get("sites", {})
        self._before: float = stored.get("total", 0.0)
        self._started = self._last = self._asked = time.monotonic()
        self._site = ""

    def lap(self, part: str) -> None:
        """Book the time since the last lap on a part of the run."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def advance(self, what: str, done: int, total: int) -> None:
        """Note which site is at work, and pass it on."""
        if what.startswith("sites ("):
            now = time.monotonic()
            if self._site:
                self._sites[self._site] = self._sites.get(self._site, 0.0) + now - self._asked
            # Where only some sites are asked, their own steps say which one it is.
            everyone = total == len(self._names) and done < total
            self._site, self._asked = self._names[done] if everyone else "", now
        for beginning in _AT_A_SITE:
            if what.startswith(beginning):
                self._site = what.removeprefix(beginning)
        self._observer.advance(what, done, total)

    def say(self, text: str) -> None:
        """Pass it on."""
        self._observer.say(text)

    def parts(self) -> dict[str, float]:
        """Seconds by part, and `total`."""
        return {**self._parts, "total": self._before + time.monotonic() - self._started}

    def sites(self) -> dict[str, float]:
        """Seconds inside each site; empty where sites work in another process."""
        return dict(self._sites)

    def save(self) -> None:
        """Keep the seconds so far for a later session."""
        parts = self.parts()
        stored = {"total": parts.pop("total"), "parts": parts, "sites": self._sites}
        write_run_file(self._path, json.dumps(stored, indent=1).encode())
