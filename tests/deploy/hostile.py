"""Builds a hostile app bundle: Flower runs its code at every site, and it asks the daemon for what it must not get."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

MANIFEST = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "hostile"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "mallory"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
out = ""
"""

SERVER = '''\
"""Asks every node once, and writes down what comes back."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    found = {}
    for node in grid.get_node_ids():
        content = RecordDict({"ask": ConfigRecord({"x": "y"})})
        grid_reply = grid.send_and_receive([Message(content, dst_node_id=node, message_type="query")], timeout=120)
        for reply in grid_reply:
            found[str(node)] = (
                reply.error.reason if reply.has_error() else json.loads(reply.content.config_records["told"]["json"])
            )
    part = Path(context.run_config["out"] + ".part")
    part.write_text(json.dumps(found))
    part.rename(context.run_config["out"])
'''

CLIENT = '''\
"""Puts every question of the bundle to the site's daemon, past Yoriai's own code."""

import base64
import json
import socket
import struct

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

QUESTIONS = json.loads(base64.b64decode("""{questions}"""))
app = ClientApp()


def ask(path, message):
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(60)
        line.connect(path)
        line.sendall(struct.pack(">4sHHQ", b"YDMN", {version}, {kind}, len(message)))
        line.recv(16, socket.MSG_WAITALL)
        line.sendall(message)
        told = b""
        while piece := line.recv(65536):
            told += piece
    return told[16:]


@app.query()
def query(message, context):
    told = {{}}
    for name, question in QUESTIONS.items():
        try:
            told[name] = ask(context.node_config["daemon-socket"], base64.b64decode(question)).decode("latin-1")
        except OSError as error:
            told[name] = repr(error)
    return Message(RecordDict({{"told": ConfigRecord({{"json": json.dumps(told)}})}}), reply_to=message)
'''


def write_bundle(folder: Path, questions: Mapping[str, bytes], *, shadowing: bool) -> Path:
    """Write a bundle that puts these messages to every daemon.

    Args:
        shadowing: whether its code stands in a folder `yoriai/`, under the very names that Yoriai's own bundle gives.
    """
    from yoriai.client.daemon import socket_protocol

    encoded = {name: base64.b64encode(message).decode() for name, message in questions.items()}
    client = CLIENT.format(
        questions=base64.b64encode(json.dumps(encoded).encode()).decode(),
        version=socket_protocol.SOCKET_VERSION,
        kind=int(socket_protocol.FrameKind.HANDLE),
    )
    inside = folder / "yoriai" / "client" if shadowing else folder
    inside.mkdir(parents=True)
    (inside / "flower_app.py").write_text(client)
    if shadowing:
        for place in (inside, inside.parent):
            (place / "__init__.py").write_text("")
    (folder / "hostile_server.py").write_text(SERVER)
    names = {
        "server": "hostile_server:app",
        "client": "yoriai.client.flower_app:app" if shadowing else "flower_app:app",
    }
    (folder / "pyproject.toml").write_text(MANIFEST.format(**names))
    return folder
