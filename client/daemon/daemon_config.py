"""What a site's daemon is started with. Light: whoever only asks for the socket loads no model library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from yoriai.client.daemon.expiries import Expiries
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.config import SiteConfig, SpeedSection
from yoriai.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from yoriai.client.site_identity import SiteIdentity

SOCKET_NAME = "daemon.sock"


@dataclass(frozen=True)
class DaemonConfig:
    """A daemon in plain values.

    Attributes:
        site: name and policy.
        base: the base model's name, as in a job.
        data: folder with `train` and `test` as .jsonl, .json or .csv.
        ledgers: folder of the data sets' ledgers.
        witnesses: folder of the ledgers' second places, best on another disk; None: beside each ledger.
        socket: where to listen; its folder is the daemon's own.
        dataset: the operator's name for the records, under which their ledger counts.
        jobs: folder of the job book; None asks nobody about a job, which only tests want.
        adapters: folder for the last adapters of jobs; None, as without a book or an identity, takes none.
        channels: folder for what the server's channels hold; None, as without an identity, takes none.
        expiries: reads when each paper of the consortium expires, in seconds since the epoch, by its name.
        identity: reads the site's keys and certificate, in the daemon's own process; None at a site that takes no
            part in secure aggregation.
        speed: device, threads and memory.
        allowed_uids: users that may talk to it beside the daemon's own and root: that of Flower's SuperNode.
        allowed_gids: primary groups whose users may.
        waiting: most messages that wait while one is in work; at least 1.
        grace_s: time for the message at hand when the daemon is asked to stop.

    Raises:
        ConfigError: `waiting` is below 1.
    """

    site: SiteConfig
    base: str
    data: Path
    ledgers: Path
    witnesses: Path | None
    socket: Path
    dataset: str = "records"
    jobs: Path | None = None
    adapters: Path | None = None
    channels: Path | None = None
    expiries: Callable[[], Mapping[str, float]] = dict
    identity: "Callable[[], SiteIdentity] | None" = None
    speed: SpeedSection = field(default_factory=SpeedSection)
    allowed_uids: frozenset[int] = frozenset()
    allowed_gids: frozenset[int] = frozenset()
    waiting: int = 4
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse a queue of no length, which would have no end."""
        if self.waiting < 1:
            raise ConfigError("a daemon's queue has no place", found=str(self.waiting), expected="at least 1")


def socket_in(folder: Path) -> Path:
    """Where the daemon of a site's folder listens."""
    return folder.resolve() / "run" / SOCKET_NAME


def config_in(
    folder: Path,
    *,
    allowed_uids: frozenset[int] = frozenset(),
    allowed_gids: frozenset[int] = frozenset(),
) -> DaemonConfig:
    """The daemon of a site's folder, as its site.toml has it.

    A site that is not enrolled has no identity, and takes no part in secure aggregation.

    Args:
        allowed_uids, allowed_gids: as in DaemonConfig.

    Raises:
        ConfigError: this is no site's folder, or its site.toml has faults.
        DaemonError: there is no such folder.
    """
    if not folder.is_dir():
        raise DaemonError(f"there is no site folder {folder}", remedy="correct the path")
    site = SiteFolder(folder.resolve())
    config = site.config()
    return DaemonConfig(
        site=config,
        base=config.base.model,
        dataset=config.records.dataset,
        data=site.place(config.records.folder),
        ledgers=site.ledgers,
        witnesses=site.place(config.ledger.witness),
        socket=socket_in(folder),
        jobs=site.jobs,
        adapters=site.adapters,
        channels=site.channels,
        expiries=Expiries(site),
        speed=config.speed,
        identity=site.identity if site.trusted.certificate.is_file() else None,
        allowed_uids=allowed_uids,
        allowed_gids=allowed_gids,
    )
