"""Programs of the operating system that tests need: found, or else installed once."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_LOCK = Path(tempfile.gettempdir()) / f"yoriai-tests-apt-{os.getuid()}.lock"
_SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])  # Where nginx lies, and which is not on everybody's path.


def needed(binary: str, package: str) -> str:
    """The path of a program; root installs its Debian package where it is missing, one test process at a time.

    Args:
        binary: the program's name.
        package: the Debian package that brings it.

    Raises:
        AssertionError: it is missing and cannot be installed; the message has the line that would.
    """
    found = _found(binary)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with _LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _found(binary) is None:
                _install(package)
        found = _found(binary)
    assert found is not None, f"{binary} is missing; as root: apt-get install -y --no-install-recommends {package}"
    return found


def _found(binary: str) -> str | None:
    return shutil.which(binary, path=os.pathsep.join([os.environ.get("PATH", os.defpath), _SBIN]))


def _install(package: str) -> None:
    """What apt-get says is its own affair: whether the program is there afterwards is what counts."""
    install = ("install", "-y", "--no-install-recommends", package)
    if not _apt(*install):
        _apt("update")
        _apt(*install)


def _apt(*arguments: str) -> bool:
    # In single-user mode a package's service is not started with it.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    return subprocess.run(["apt-get", *arguments], env=quiet, capture_output=True, check=False).returncode == 0
