"""When the trust files of a site expire that its consortium gave it, for whoever watches over them."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import YoriaiError


class Expiries:
    """Reads the trust files anew each time. What cannot be read any more, because it has expired, keeps its last value.

    Args:
        site: its folder; a site that is not enrolled has no trust files.
        clock: now.
    """

    def __init__(self, site: SiteFolder, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._site, self._clock = site, clock
        self._found: dict[str, float] = {}

    def __call__(self) -> Mapping[str, float]:
        """Seconds since the epoch by paper: certificate, roster, revocations. The roster is the installed one."""
        trusted = self._site.trusted
        papers: Mapping[str, Callable[[datetime], datetime]] = {
            "certificate": lambda now: trusted.enrolment(now).expires,
            "roster": lambda now: trusted.installed_roster(now).expires,
            "revocations": trusted.revocations_expire,
        }
        for paper, expires in papers.items():
            with contextlib.suppress(YoriaiError, OSError, ValueError):
                self._found[paper] = expires(self._clock()).timestamp()
        return dict(self._found)
