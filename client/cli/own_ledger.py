"""The ledger of a site's records, as the commands of its operator open it beside a daemon that may be at work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import ConfigError
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import second_place
from yoriai.system.users import user_name


def places_of(site: SiteFolder) -> tuple[Path, Path]:
    """The ledger of a site's records, and its second place; neither need be there."""
    config = site.config()
    path = site.ledgers / f"{config.records.dataset}.sqlite"
    return path, second_place(site.place(config.ledger.witness) / path.name)


def check_writer(site: SiteFolder) -> None:
    """Raise ConfigError for another user than the ledgers' own: a file of root's is one that the site cannot read."""
    if (owner := site.ledgers.stat().st_uid) != os.geteuid():
        name = user_name(owner)
        raise ConfigError(f"{site.ledgers} belongs to user {name}", remedy=f"run the command as {name}")


@contextmanager
def opened(site: SiteFolder) -> Iterator[Ledger | None]:
    """The ledger of a site's records; None before the site has one.

    Raises:
        LedgerError: it cannot be read.
    """
    path, witness = places_of(site)
    if not path.exists():
        yield None
        return
    with Ledger.existing(path, witness=witness) as ledger:
        yield ledger


def held(site: SiteFolder, run_id: str) -> tuple[int, float]:
    """The unused rounds that the ledger holds for a run, and their epsilon.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with opened(site) as ledger:
        return (0, 0.0) if ledger is None else (ledger.outstanding(run_id), ledger.held_for(run_id))


def free(site: SiteFolder, run_id: str) -> tuple[int, float]:
    """Free what the ledger holds for a run, durably; returns what that was, as `held`. Charges stay.

    Raises:
        LedgerError: the ledger cannot be read or written.
    """
    with opened(site) as ledger:
        if ledger is None:
            return 0, 0.0
        freed = ledger.outstanding(run_id), ledger.held_for(run_id)
        ledger.finish(run_id)
        return freed
