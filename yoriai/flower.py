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

PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})


def environment(home: Path) -> dict[str, str]:
    """The environment of one of Flower's processes: this process's own, with Flower's files in a folder of their own.

    Flower starts further commands by name, so the folder of this interpreter comes first on the path. Proxies are left
    out: what stays on this machine would go through them, and where one is needed a setting names it.
    """
    own = {name: value for name, value in os.environ.items() if name.upper() not in PROXIES}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**own, **ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
