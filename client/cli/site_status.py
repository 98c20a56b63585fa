"""What a site is at: its daemon, its membership and its SuperNode, as plain values."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yoriai.client.cli.membership import membership_of
from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node import node_state
from yoriai.errors import DaemonError


def site_status(folder: Path) -> dict[str, Any]:
    """As `site status --json` prints it; with `reason` where the daemon is not to be reached."""
    client, node = DaemonClient(socket_in(folder)), node_state(folder)
    both = {"membership": membership_of(SiteFolder(folder.resolve()), datetime.now(UTC)), "node": node}
    try:
        return {"reachable": True, **client.hello(), **client.health(), **both}
    except DaemonError as error:
        return {"reachable": False, "reason": str(error), **both}
