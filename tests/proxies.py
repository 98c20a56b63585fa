"""A real HTTP proxy from the distribution, as it stands between many a plant and the world."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.processes import free_port
from tests.system import needed
from tests.waiting import wait_for

# How often a port that was free is another process's by the time that the proxy takes it, at the very most.
_TRIALS = 5


@contextmanager
def tinyproxy(folder: Path, *connect_ports: int) -> Iterator[tuple[int, Path]]:
    """A real proxy that connects to these ports alone; its port and its log."""
    log = folder / "proxy.log"
    process, port = _started(folder, log, connect_ports)
    try:
        yield port, log
    finally:
        process.terminate()
        process.wait()


def _started(folder: Path, log: Path, connect_ports: Sequence[int]) -> tuple["subprocess.Popen[bytes]", int]:
    """A proxy that says itself that it listens: at its port, somebody else could do so too."""
    for _ in range(_TRIALS):
        port = free_port()
        lines = [f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "LogLevel Info", f'LogFile "{log}"']
        (folder / "proxy.conf").write_text("\n".join([*lines, *(f"ConnectPort {each}" for each in connect_ports), ""]))
        log.unlink(missing_ok=True)
        process = subprocess.Popen([needed("tinyproxy", "tinyproxy"), "-d", "-c", str(folder / "proxy.conf")])
        wait_for(lambda process=process: process.poll() is not None or _listens(log))  # type: ignore[misc]
        if process.poll() is None:
            return process, port
    raise AssertionError("every port that was free was taken")


def _listens(log: Path) -> bool:
    return log.exists() and "Accepting connections" in log.read_text()
