"""Memory and processor time of a deployment's processes, by kind, as the kernel counts them (proc(5))."""

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_TICK_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Often enough to catch a ServerApp, and whatever else lives for a few seconds.
_PERIOD_S = 0.5
# Adding up what all processes share takes the kernel a while.
_SHARED_EVERY = 20

# A process is of the first kind whose word its command line has.
WORDS = {
    "ServerApp": "flwr-serverapp",
    "SuperNode": "supernode.py",
    "SuperLink": "superlink.py",
    "executor of a site": "executor.py",
    "executor": "flower-superexec",
    "nginx": "nginx",
    "daemon": "bench.deploy.daemons",
    "keeper of a SuperNode": " site start ",
    "keeper of the server": " server start ",
}
_NODE = "keeper of a SuperNode"
# What runs at a site. Daemons that share a process count as well.
SITE_KINDS = ("daemon", _NODE, "SuperNode", "executor of a site")
OTHER = "other"


@dataclass(frozen=True)
class Process:
    """One process at one moment; `cpu_s` is its own, `reaped_s` that of its ended children."""

    pid: int
    parent: int
    kind: str
    rss_bytes: int
    cpu_s: float
    reaped_s: float


def kind_of(command: str) -> str:
    """The kind of a process by its command line, arguments parted by blanks."""
    return next((kind for kind, word in WORDS.items() if word in command), OTHER)


def parse_stat(text: str) -> tuple[int, int, float, float]:
    """Parent, resident bytes, own seconds and ended children's seconds from a process' `stat`."""
    fields = text.rpartition(")")[2].split()
    own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return int(fields[1]), int(fields[21]) * _PAGE_BYTES, own / _TICK_S, ended / _TICK_S


def below(root: int, processes: Mapping[int, Process]) -> list[Process]:
    """All processes under one, itself left out."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, waiting = [], list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        found.append(processes[pid])
        waiting.extend(children.get(pid, ()))
    return found


@dataclass
class ProcessKind:
    """What processes of one kind have needed.

    Attributes:
        most: alive at once.
        peak_bytes: of the largest one, resident.
    """

    most: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Totals:
    """Processor seconds at one moment: of our processes by kind, and of the whole machine but idle time."""

    by_kind: Mapping[str, float]
    machine_s: float


@dataclass
class Usage:
    """Watches all processes below this one, while it is entered.

    Attributes:
        kinds: by name.
        node_bytes: most resident memory of one SuperNode, its keeper and executor together; pages that they share
            count more than once.
        all_bytes: most memory of all processes together, each page counted once (proportional set size).
    """

    kinds: dict[str, ProcessKind] = field(default_factory=dict)
    node_bytes: int = 0
    all_bytes: int = 0

    def __post_init__(self) -> None:
        self._commands: dict[int, str] = {}
        self._seen: dict[int, Process] = {}
        self._alive: frozenset[int] = frozenset()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def totals(self) -> Totals:
        """Processor seconds until the last look."""
        with self._lock:
            return Totals(cpu_by_kind(list(self._seen.values()), self._alive), _machine_s())

    def _watch(self) -> None:
        looks = 0
        while not self._over.wait(_PERIOD_S):
            self._look()
            looks += 1
            if looks % _SHARED_EVERY == 0:
                with self._lock:
                    alive = [self._seen[pid] for pid in self._alive]
                self.all_bytes = max(self.all_bytes, sum(map(_share_bytes, alive)))

    def _look(self) -> None:
        found = {process.pid: process for process in below(os.getpid(), self._processes())}
        with self._lock:
            self._seen.update(found)
            self._alive = frozenset(found)
        alive: dict[str, int] = {}
        for process in found.values():
            kind = self.kinds.setdefault(process.kind, ProcessKind())
            kind.peak_bytes = max(kind.peak_bytes, _peak_bytes(process))
            alive[process.kind] = alive.get(process.kind, 0) + 1
        for name, count in alive.items():
            self.kinds[name].most = max(self.kinds[name].most, count)
        for process in found.values():
            if process.kind == _NODE:
                whole = process.rss_bytes + sum(child.rss_bytes for child in below(process.pid, found))
                self.node_bytes = max(self.node_bytes, whole)

    def _processes(self) -> dict[int, Process]:
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError, ValueError, IndexError):  # It has ended meanwhile.
                    parent, rss_bytes, cpu_s, reaped_s = parse_stat(Path("/proc", entry, "stat").read_text())
                    kind = self._kind(int(entry), parent)
                    found[int(entry)] = Process(int(entry), parent, kind, rss_bytes, cpu_s, reaped_s)
        return found

    def _kind(self, pid: int, parent: int) -> str:
        """By the command line, which a process may still change: one that is not known is looked at again."""
        known = self._commands.get(pid, OTHER)
        if known == OTHER:
            command = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            known = self._commands[pid] = kind_of(command)
        return known


# Short-lived, and so counted by whoever waited for its end, or as long as it lives.
_SHORT = ("ServerApp",)


def cpu_by_kind(processes: Sequence[Process], alive: Collection[int]) -> dict[str, float]:
    """Processor seconds by kind.

    Args:
        processes: each as it was last seen.
        alive: the numbers of those that still were.
    """
    seconds: dict[str, float] = {}
    for process in processes:
        if process.kind not in _SHORT or process.pid in alive:
            seconds[process.kind] = seconds.get(process.kind, 0.0) + process.cpu_s
        if process.kind == "executor":
            seconds["ServerApp"] = seconds.get("ServerApp", 0.0) + process.reaped_s
    return seconds


def _peak_bytes(process: Process) -> int:
    """The most resident memory that a process has had so far, as the kernel keeps it; of an ended one, the last."""
    return _line_of(process, "status", "VmHWM:")


def _share_bytes(process: Process) -> int:
    """A process' memory, with pages that it shares in parts; all of it where this user may not ask."""
    return _line_of(process, "smaps_rollup", "Pss:")


def _line_of(process: Process, file: str, name: str) -> int:
    with suppress(OSError):
        for line in Path("/proc", str(process.pid), file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return process.rss_bytes


def _machine_s() -> float:
    """Seconds that all cores together were busy since the start of the machine."""
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICK_S
