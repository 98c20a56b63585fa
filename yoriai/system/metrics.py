"""Metrics for Prometheus, on loopback only: numbers that are worked out anew whenever somebody looks.

Nothing is counted here; the values come from what a process keeps anyway, so that they survive its restart and say the
same as the command line.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from yoriai.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Reading:
    """One metric as it stands.

    Attributes:
        name: with its unit, after `yoriai_`, and without the `_total` of a counter.
        meaning: in a sentence.
        kind: a counter only grows while the folder that it is read from lives.
        values: one by the values of the labels; without labels the key is empty.
        labels: their names.
    """

    name: str
    meaning: str
    kind: Literal["gauge", "counter"]
    values: Mapping[tuple[str, ...], float]
    labels: Sequence[str] = field(default=())


@contextmanager
def served(port: int, read: Callable[[], Iterable[Reading]]) -> Iterator[None]:
    """Serve metrics on this port of loopback meanwhile; on none if it is 0.

    Raises:
        ConfigError: the port is taken.
    """
    if not port:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(read))
    try:
        server, thread = start_http_server(port, addr=_ADDRESS, registry=registry)
    except OSError as error:
        raise ConfigError(f"port {port} for metrics", found=error.strerror or "", remedy="choose another") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """What the library asks; two who look at once wait for each other."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read, self._lock = read, threading.Lock()

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            for reading in self._read():
                family = GaugeMetricFamily if reading.kind == "gauge" else CounterMetricFamily
                metric = family(f"yoriai_{reading.name}", reading.meaning, labels=list(reading.labels))
                for labels, value in sorted(reading.values.items()):
                    metric.add_metric(list(labels), value)
                yield metric
