"""How Yoriai starts Flower's processes: their environment. Flower itself is imported in none of Yoriai's light modules.

Flower reads these when it is first imported, so they belong into the environment of a process before it starts.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

# Nothing is reported to anybody, nothing is looked up elsewhere, and an app brings no packages of its own. Pieces of a
# payload go back to the system when they are done with; forty threads would each keep some.
ENVIRONMENT: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**18),
    "MALLOC_ARENA_MAX": "2",
}

# An operator's way to have further variables passed on: their names, with spaces between them.
PASS_ON = "YORIAI_PASS_ENV"
# What a process needs to find its files, its libraries and its language. Nothing here is a secret.
_PASSED_ON = re.compile(
    rf"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|PYTHONPATH|LD_LIBRARY_PATH|"
    rf"OMP_NUM_THREADS|YORIAI_CACHE|{PASS_ON}"
)
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})


def passed_on() -> dict[str, str]:
    """What one of Flower's processes, and so every ServerApp, gets of this process's environment.

    The rest may be whatever root's session held, such as tokens and the sockets of agents. Proxies are left out even by
    name: what stays on this machine would go through them, and where one is needed a setting names it.
    """
    named = set(os.environ.get(PASS_ON, "").split())
    return {
        name: value
        for name, value in os.environ.items()
        if (name in named or _PASSED_ON.fullmatch(name)) and name.upper() not in _PROXIES
    }


def environment(home: Path) -> dict[str, str]:
    """The environment of one of Flower's processes, with Flower's files in a folder of their own.

    Flower starts further commands by name, so the folder of this interpreter comes first on the path.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**passed_on(), **ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
