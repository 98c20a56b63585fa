"""A router from a site's settings: what is missing is said before any text is looked at."""

import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from yoriai.client.routing.calibration_file import read_calibration, version_digest
from yoriai.client.routing.large import Endpoint
from yoriai.client.routing.leaving_log import LeavingLog
from yoriai.client.routing.presidio import presidio
from yoriai.client.routing.redaction import Finder, patterns
from yoriai.client.routing.router import Router
from yoriai.client.routing.threshold import NOTHING
from yoriai.config import RouteSection
from yoriai.errors import ConfigError, PolicyError
from yoriai.system.key_file import read_private


def finders_of(settings: RouteSection) -> tuple[Finder, ...]:
    """What the policy takes out of a text.

    Raises:
        ConfigError: it asks for Presidio, which is not installed, or not with each language's model.
    """
    own = patterns(settings.patterns)
    return (own,) if settings.redact == "patterns" else (own, presidio(settings.languages))


def endpoint_of(settings: RouteSection, site: Path) -> Endpoint:
    """The large model.

    Args:
        site: the folder that a key file's path is taken from.

    Raises:
        PolicyError: no text may leave.
        IdentityError: others may read the key file.
        StorageError: it cannot be read.
    """
    if settings.mode == "never":
        raise PolicyError(
            "this site lets no text leave",
            found='route.mode = "never"',
            expected='"ask" or "auto"',
            remedy="set route.mode, url and model in site.toml, or see what would leave with --dry-run",
        )
    path = site / Path(settings.key_file).expanduser()
    key = read_private(path).decode("ascii", "replace").strip() if settings.key_file else ""
    return Endpoint(settings.url, key, settings.model, settings.structured, settings.timeout_s)


class Routes:
    """Routers for a site's versions, one after another; redaction is loaded once.

    Args:
        settings: [route] of site.toml.
        site: the site's folder.
        dry_run: whether nothing is sent.

    Raises:
        PolicyError: no text may leave, and this is no dry run.
        ConfigError: what is to take names out is not installed.
        IdentityError: others may read the endpoint's key.
    """

    def __init__(self, settings: RouteSection, site: Path, *, dry_run: bool = False) -> None:
        self.settings = settings
        self._folder = site / "route"
        self._endpoint = None if dry_run else endpoint_of(settings, site)
        self._finders = finders_of(settings)
        self._client = httpx.Client(trust_env=False, follow_redirects=False)

    def router(self, folder: Path, labels: Sequence[str], *, everything: bool = False) -> Router:
        """For the version in a folder.

        Args:
            everything: whether no answer is sure enough, as for a comparison.

        Raises:
            ConfigError: it chooses no label, or has no threshold.
        """
        if not labels:
            raise ConfigError("only answers that are labels are routed", found="a version that writes")
        margin = NOTHING if everything else self._margin(folder)
        log = LeavingLog(self._folder, self.settings.daily_cap, time.time)
        return Router(
            margin,
            labels,
            self._finders,
            endpoint=self._endpoint,
            log=log,
            version=folder.name,
            client=self._client,
        )

    def _margin(self, folder: Path) -> float:
        share, delta = self.settings.share, self.settings.delta
        return read_calibration(self._folder, version_digest(folder), share=share, delta=delta).margin

    def close(self) -> None:
        """Give back the connection."""
        self._client.close()
