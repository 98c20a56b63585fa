"""Builds a hostile app bundle: code for the sites that would leave a trace, and a server that asks for too much."""

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
sites = 0
"""

SERVER = '''\
"""Waits for all nodes, puts every question to each as Yoriai's coordinator would, and writes down the answers."""

import base64
import json
import time
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import ServerApp

from yoriai.flower_payload import label_of, pack, payload_of

QUESTIONS = json.loads(base64.b64decode("""{questions}"""))
app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < context.run_config["sites"]:
        time.sleep(0.5)
    asked = {{}}
    for name, question in QUESTIONS.items():
        content = pack(base64.b64decode(question))
        messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
        asked.update({{identity: name for identity in grid.push_messages(messages)}})
    found = {{}}
    while asked:
        for reply in grid.pull_messages(list(asked)):
            name = asked.pop(reply.metadata.reply_to_message_id)
            told = "" if reply.has_error() else base64.b64encode(payload_of(reply.content)).decode()
            found.setdefault(str(reply.metadata.src_node_id), {{}})[name] = told
        time.sleep(0.5)
    part = Path(context.run_config["out"] + ".part")
    part.write_text(json.dumps(found))
    part.rename(context.run_config["out"])
'''

CLIENT = '''\
"""Leaves a trace wherever it is imported, and where it is called."""

from pathlib import Path

from flwr.clientapp import ClientApp

Path("{mark}").write_text("imported")
app = ClientApp()


@app.query()
def query(message, context):
    Path("{mark}").write_text("called")
    raise RuntimeError
'''


def write_bundle(folder: Path, questions: Mapping[str, bytes], mark: Path, *, shadowing: bool) -> Path:
    """Write a bundle that puts these messages to every site.

    Args:
        mark: the file that its code for sites would write.
        shadowing: whether this code stands in a folder `yoriai/`, under the very names of Yoriai's own.
    """
    encoded = {name: base64.b64encode(message).decode() for name, message in questions.items()}
    inside = folder / "yoriai" / "client" / "node" if shadowing else folder
    inside.mkdir(parents=True)
    (inside / "client_app.py").write_text(CLIENT.format(mark=mark))
    if shadowing:
        for place in (inside, inside.parent, inside.parent.parent):
            # The server's own part of the bundle goes on finding what is installed.
            (place / "__init__.py").write_text('__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n')
    server = SERVER.format(questions=base64.b64encode(json.dumps(encoded).encode()).decode())
    (folder / "hostile_server.py").write_text(server)
    names = {
        "server": "hostile_server:app",
        "client": "yoriai.client.node.client_app:app" if shadowing else "client_app:app",
    }
    (folder / "pyproject.toml").write_text(MANIFEST.format(**names))
    return folder
