"""How Yoriai starts Flower's processes: their environment. Flower itself is imported in none of Yoriai's light modules.

Flower reads these when it is first imported, so they belong into the environment of a process before it starts.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Nothing is reported to anybody, nothing is looked up elsewhere, and an app brings no packages of its own.
ENVIRONMENT: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def environment(home: Path) -> dict[str, str]:
    """The environment of one of Flower's processes: this process's own, with Flower's files in a folder of their own.

    Flower starts further commands by name, so the folder of this interpreter comes first on the path.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
