"""A ServerApp that measures Flower's own part of an exchange: messages without payload, which sites answer at once.

A site's side asks its daemon for no more than the site's name. What is left is Flower: sending, and waiting for word.
The seconds go to a file of the server that the SuperLink belongs to.
"""

import json
import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from yoriai.server.flower.flower_control import SERVER_VARIABLE
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.flower.reply_news import ReplyNews
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.messenger import Transport
from yoriai.server.service.server_app import GridTransport
from yoriai.system.files import write_atomically

EXCHANGES = 3
_TIMEOUT_S = 900.0


def seconds_file(server: ServerFolder) -> Path:
    """Where the seconds of each exchange are left, in order; a site's first message of a run brings the bundle too."""
    return server.run / "empty.json"


def bundle_from(bundle: Path, place: Path) -> Path:
    """A server's bundle with this ServerApp in place of its own."""
    text = (bundle / "pyproject.toml").read_text(encoding="utf-8")
    place.mkdir()
    (place / "pyproject.toml").write_text(text.replace("yoriai.server.flower_app:app", f"{__name__}:app"))
    return place


def measure(transport: Transport) -> None:
    """Exchange empty messages with every site, and write down the seconds."""
    seconds = []
    for _ in range(EXCHANGES):
        sites = transport.sites()
        started = time.monotonic()
        transport.exchange("empty", dict.fromkeys(sites, b""), _TIMEOUT_S)
        seconds.append(round(time.monotonic() - started, 3))
    write_atomically(seconds_file(ServerFolder(Path(os.environ[SERVER_VARIABLE]))), json.dumps(seconds).encode())


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Measure over the transport that a job's coordinator has."""
    server = ServerFolder(Path(os.environ[SERVER_VARIABLE]))
    names = NodeBook.of(server.flower_home).names
    with ReplyNews(server.config().control_port, server.tls_ca).listening() as news:
        measure(GridTransport(grid, names=names, news=news))
