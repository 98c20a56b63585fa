"""A real HTTP proxy from the distribution, as it stands between many a plant and the world."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import needed


@contextmanager
def tinyproxy(folder: Path, *connect_ports: int) -> Iterator[tuple[int, Path]]:
    """A real proxy that connects to these ports alone; its port and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "LogLevel Connect", f'LogFile "{folder}/proxy.log"']
    (folder / "proxy.conf").write_text("\n".join([*lines, *(f"ConnectPort {each}" for each in connect_ports), ""]))
    process = subprocess.Popen([needed("tinyproxy", "tinyproxy"), "-d", "-c", str(folder / "proxy.conf")])
    try:
        wait_for(lambda: _listens(port))
        yield port, folder / "proxy.log"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
