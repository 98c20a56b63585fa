"""What the server's refusal of a site's node means for its operator: for webhook, mail and the console alike.

The keeper of the SuperNode sees it, and tells it: the site's daemon reaches no network, and the server, which does not
know why a node is away, calls a site silent only after a day.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from yoriai.alarms.alarm import Alarm, Kind

LOOK_EVERY_S = 300.0


def node_alarms(node: Mapping[str, Any]) -> Iterator[Alarm]:
    """The alarm of a node that the server does not take; none where it was taken, or not heard yet.

    Args:
        node: as its keeper says (`node_state`).
    """
    if node["accepted"] is False:
        said = str(node["server_says"])
        kind: Kind = "clock" if "clock" in said else "site_silent"
        yield Alarm(kind, "node", "The server refuses this site's node: {said}", {"said": said})
