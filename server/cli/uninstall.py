"""`server uninstall`: what a server has left on its machine, and the commands that remove it. It removes nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path

from yoriai.config import ServerConfig
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.system.files import folder_bytes

_ETC = Path("/etc")


def left_behind(server: ServerFolder, config: ServerConfig, *, etc: Path = _ETC) -> Iterator[str]:
    """Lines for the screen, in the order in which the commands are to be given.

    Args:
        server: with an absolute path, of letters that need no quotes, as `server init` asks.
        etc: where the machine's own units and nginx's files lie.
    """
    yield f"what the server {config.name} has on this machine; as root, in this order:"
    unit, users, site = (
        etc / "systemd" / "system" / server.unit.name,
        etc / "sysusers.d" / "yoriai-server.conf",
        etc / "nginx" / "conf.d" / server.nginx_site.name,
    )
    if unit.exists():
        yield "1. its unit"
        yield f"  systemctl disable --now {unit.name}"
        yield f"  rm {unit} && systemctl daemon-reload"
    else:
        yield "1. no unit under systemd; started in the foreground it is stopped by"
        yield f"  yoriai server stop {server.path}"
    if site.exists():
        yield "2. its site of nginx"
        yield f"  rm {site} && nginx -t && systemctl reload nginx"
    yield f"3. {server.path} ({folder_bytes(server.path) / 2**20:.0f} MiB), in which {server.jobs} has every round's"
    yield f"  adapter, and {server.coordinator_key} signs for the coordinator: copy the one, not the other"
    yield f"  rm -r {' '.join(str(place) for place in (server.path, *([users] if users.exists() else [])))}"
    yield "4. its user"
    yield f"  userdel {config.user}"
    yield f"5. Yoriai itself, unless something else uses it: {sys.prefix}, and links to it"
    yield f"the consortium is told, and revokes its keys: yoriai federation revoke {config.name}"
