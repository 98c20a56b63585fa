"""The figures of a run's rounds as JSON lines, for trackers and whoever draws them: no record, no site by name.

    {"schema": 1, "run": RUN, "round": 3, "sites": 5, "refused": 0, "voided": 0, "update_norm": 0.41, ...}

The file is made again as a whole after each round, from what is stored of the rounds, so a run that was interrupted has
each of its rounds once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from yoriai.errors import ConfigError
from yoriai.server.round.manifest import RoundRecord
from yoriai.system.files import read_carried

METRICS_FILE: Final = "metrics.jsonl"
METRICS_SCHEMA: Final = 1

Line = Mapping[str, Any]


def lines_of(run_id: str, records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """One line a finished round, counted from 1; bytes and sites are sums and counts over the round's sites."""
    return [
        {
            "schema": METRICS_SCHEMA,
            "run": run_id,
            "round": record.round_index + 1,
            "sites": len(record.answered),
            "refused": len(record.refused),
            "voided": len(record.voided),
            "update_norm": record.update_norm,
            "clipped": record.clipped,
            "seconds": round(record.seconds, 3),
            "bytes_up": sum(record.bytes_up.values()),
            "bytes_down": sum(record.bytes_down.values()),
        }
        for record in records
    ]


def encoded(lines: Iterable[Line]) -> bytes:
    """The file's content; a figure that is not known is left out."""
    known = ({key: value for key, value in line.items() if value is not None} for line in lines)
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in known).encode()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics, in the order of their rounds.

    Raises:
        ConfigError: it is no such file, or holds no round.
        StorageError: it cannot be read.
    """
    data = read_carried(path, "the file of metrics", at_most_mib=256)
    try:
        lines = [json.loads(line) for line in data.splitlines()]
        if not lines or any(line["schema"] != METRICS_SCHEMA or type(line["round"]) is not int for line in lines):
            raise ValueError
        return sorted(({**line, "run": str(line["run"])} for line in lines), key=lambda line: int(line["round"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ConfigError(
            f"{path} holds no metrics of a run", expected="metrics.jsonl of a run or of a server's job, with a round"
        ) from None
