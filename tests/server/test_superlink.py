"""Flower's SuperLink as the server starts it."""

import subprocess
import sys
from pathlib import Path

# What the SuperLink does with its database when it starts, and how long a connection of its then waits for a lock.
_ASK = """
import sys
from yoriai import flower_internals
flower_internals._be_patient()
from flwr.supercore.object_store import ObjectStoreFactory
store = ObjectStoreFactory(sys.argv[1]).store()
print(store.query("PRAGMA busy_timeout")[0]["timeout"])
"""


def test_a_database_that_others_write_is_waited_for_longer_than_flower_would(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", _ASK, str(tmp_path / "state.db")]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=400)
    assert done.stdout.split()[-1] == "120000"
