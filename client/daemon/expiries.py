"""When the trust files of a site expire that its consortium gave it, for whoever watches over them."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cryptography import x509

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import YoriaiError
from yoriai.privacy.identity.enrolment import read_enrolment
from yoriai.privacy.identity.roster import read_roster
from yoriai.system.files import read_carried


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
        for paper, read in (
            ("certificate", self._certificate),
            ("roster", self._roster),
            ("revocations", self._revocations),
        ):
            with contextlib.suppress(YoriaiError, OSError, ValueError):
                if (expires := read()) is not None:
                    self._found[paper] = expires.timestamp()
        return dict(self._found)

    def _certificate(self) -> datetime:
        data = read_carried(self._site.certificate, "the certificate file")
        return read_enrolment(data, self._site.trust(self._clock())).expires

    def _roster(self) -> datetime:
        return read_roster(read_carried(self._site.roster, "the roster"), self._site.trust(self._clock())).expires

    def _revocations(self) -> datetime | None:
        self._site.trust(self._clock())
        return x509.load_der_x509_crl(read_carried(self._site.revocations, "the revocation list")).next_update_utc
