"""Flower's SuperLink as the server starts it."""

import subprocess
import sys
from pathlib import Path

from tests.commands import server
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service import keeper

# What the SuperLink does with its database when it starts, and how long a connection of its then waits for a lock.
_ASK = """
import runpy, sys
runpy.run_path(sys.argv[1])
from flwr.supercore.object_store import ObjectStoreFactory
store = ObjectStoreFactory(sys.argv[2]).store()
print(store.query("PRAGMA busy_timeout")[0]["timeout"])
"""


def test_a_database_that_others_write_is_waited_for_longer_than_flower_would(tmp_path: Path) -> None:
    line = keeper.superlink_command(ServerFolder(server(tmp_path / "server")))
    script = next(part for part in line if part.endswith("superlink.py"))
    asked = [sys.executable, "-c", _ASK, script, str(tmp_path / "state.db")]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=400)
    assert done.stdout.split()[-1] == "120000"
