"""`site uninstall`: what a site has left on its machine, and the commands that remove it. It removes nothing itself.

A ledger is the only memory of what records have paid; whether it may go is for a person who knows what became of them.
"""

import pwd
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.config import SiteConfig
from yoriai.system.files import folder_bytes
from yoriai.system.supervisor import installed
from yoriai.system.users import user_name

_SYSTEMD = Path("/etc/systemd/system")


def left_behind(site: SiteFolder, config: SiteConfig, *, systemd: Path = _SYSTEMD) -> Iterator[str]:
    """Lines for the screen, in the order in which the commands are to be given.

    Args:
        site: with an absolute path.
        systemd: where the machine's own units lie.
    """
    yield f"what the site {config.name} has on this machine; as root, in this order:"
    units = [unit for kind in ("node", "site") if (unit := systemd / f"yoriai-{kind}-{config.name}.service").exists()]
    if units:
        yield f"1. its units: {', '.join(unit.name for unit in units)}"
        yield f"  systemctl disable --now {' '.join(unit.name for unit in units)}"
        yield f"  rm {' '.join(quote(str(unit)) for unit in units)} && systemctl daemon-reload"
    else:
        yield "1. no units under systemd; started in the foreground it is stopped by"
        yield f"  yoriai site stop {quote(str(site.path))}"
    yield from _folders(site, config)
    yield from _users_and_rest(site, config)


def _folders(site: SiteFolder, config: SiteConfig) -> Iterator[str]:
    witness, records = site.place(config.ledger.witness), site.place(config.records.folder)
    yield f"2. {site.path} ({_mib(site.path)}), of which {site.cache} ({_mib(site.cache)}) can be had again,"
    yield f"  and {site.adapters} ({_mib(site.adapters)}) is what training has given: copy it first"
    yield f"  {site.ledgers} and its second place {witness} are the only memory of what the records have"
    yield "  spent: keep a copy, with its date, for as long as anyone has the records"
    if records.resolve().is_relative_to(site.path.resolve()):
        yield f"  The records lie in it too: {records}"
    outside = [] if witness.resolve().is_relative_to(site.path.resolve()) else [witness]
    yield f"  rm -r {' '.join(quote(str(place)) for place in (site.path, *outside))}"


def _users_and_rest(site: SiteFolder, config: SiteConfig) -> Iterator[str]:
    owner, node = (user_name(place.stat().st_uid) for place in (site.path, site.node))
    records = site.place(config.records.folder)
    if records.is_dir() and user_name(records.stat().st_uid) == owner:
        yield f"3. the records {records} stay, and belong to {owner}: give them to somebody else first"
        yield f"  chown -R OWNER: {quote(str(records))}"
    yield "4. its users, unless another site of this machine has them"
    for name in dict.fromkeys((node, owner)):
        if _is_system_user(name):
            yield f"  userdel {name}"
    command = Path(installed("yoriai")).resolve()
    yield f"5. Yoriai itself, unless something else uses it: {command.parents[1]}, and links to {command}"
    yield "the consortium is told, and revokes the membership: yoriai federation revoke " + config.name


def _is_system_user(name: str) -> bool:
    """Whether it is a user that was made for a service: not root, nobody's login."""
    try:
        return 0 < pwd.getpwnam(name).pw_uid < 1000
    except KeyError:
        return False


def _mib(folder: Path) -> str:
    return f"{folder_bytes(folder) / 2**20:.0f} MiB"
