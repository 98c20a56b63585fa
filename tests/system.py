"""Programs and libraries of the operating system that tests need: found, or else installed once."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

_LOCK = Path(tempfile.gettempdir()) / f"yoriai-tests-apt-{os.getuid()}.lock"
_SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])  # Where nginx lies, and which is not on everybody's path.
_LIBRARIES = Path("/usr/lib")


def needed(binary: str, package: str) -> str:
    """The path of a program; root installs its Debian package where it is missing, one test process at a time.

    Args:
        binary: the program's name.
        package: the Debian package that brings it.

    Raises:
        AssertionError: it is missing and cannot be installed; the message has the line that would.
    """
    return _there(lambda: _found(binary), binary, package)


def needed_library(file: str, package: str) -> str:
    """The path of a library that programs are to load first; root installs its Debian package where it is missing.

    Args:
        file: the library's file name.
        package: the Debian package that brings it.

    Raises:
        AssertionError: it is missing and cannot be installed; the message has the line that would.
    """
    return _there(lambda: _found_library(file), file, package)


def _there(find: Callable[[], str | None], what: str, package: str) -> str:
    found = find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with _LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if find() is None:
                _install(package)
        found = find()
    assert found is not None, f"{what} is missing; as root: apt-get install -y --no-install-recommends {package}"
    return found


def _found(binary: str) -> str | None:
    return shutil.which(binary, path=os.pathsep.join([os.environ.get("PATH", os.defpath), _SBIN]))


def _found_library(file: str) -> str | None:
    """In one of the system's folders for libraries, or in one below that a package has to itself."""
    places = [path for above in ("", "*/", "*/*/") for path in _LIBRARIES.glob(f"{above}{file}")]
    return str(min(places)) if places else None


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
