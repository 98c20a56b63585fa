"""A task of the benchmark: sites with their records, and prompts that no site trains on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from yoriai.client.records.records import Record, SiteRecords
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.simulations.scenarios import SCENARIOS
from yoriai.simulations.scenarios.partition import read_sites

_KEPT_BACK: Final = 5  # Every fifth training record of a site.


@dataclass(frozen=True)
class Task:
    """What every base is measured on.

    Attributes:
        job: None for the defaults, with labels that are read off the records.
        sites: as they train.
        prompts: training records that were kept back; one base labels them, another learns these labels.
    """

    name: str
    job: JobConfig | None
    sites: tuple[SiteRecords, ...]
    prompts: tuple[Record, ...]

    def write(self, folder: Path) -> Path:
        """A folder a site with its records. Raises OSError where it cannot be written."""
        for site in self.sites:
            home = folder / site.name
            home.mkdir(parents=True)
            for part, records in (("train", site.train), ("test", site.test)):
                (home / f"{part}.jsonl").write_text("".join(map(_line, records)), encoding="utf-8")
        return folder


def task_of(data: str, most: int, job: JobConfig | None = None) -> Task:
    """A scenario by its name, or a folder of sites.

    Args:
        most: training records of a site, and test records of a site, at most.
        job: in place of the scenario's own, or of the defaults for a folder.

    Raises:
        ConfigError: it is neither, or a record has no label.
        RecordError: the records cannot be read.
        AssetError: a scenario's records cannot be fetched.
    """
    if data in SCENARIOS:
        scenario = SCENARIOS[data]
        return _dealt(data, job or scenario.job(), scenario.sites(0), most)
    if not (folder := Path(data)).is_dir():
        raise ConfigError("no such task", found=data, expected=f"{', '.join(sorted(SCENARIOS))}, or a folder of sites")
    return _dealt(folder.resolve().name, job, read_sites(folder), most)


def _dealt(name: str, job: JobConfig | None, sites: Sequence[SiteRecords], most: int) -> Task:
    if not all(record.prompt and record.response for site in sites for record in (*site.train, *site.test)):
        raise ConfigError("bases are compared by labels", found=f"{name}, with records of another kind")
    prompts = tuple(record for site in sites for record in site.train[:most][::_KEPT_BACK])
    dealt = tuple(
        SiteRecords(
            site.name,
            tuple(record for place, record in enumerate(site.train[:most]) if place % _KEPT_BACK),
            site.test[:most],
        )
        for site in sites
    )
    return Task(name, job, dealt, prompts)


def _line(record: Record) -> str:
    return json.dumps({"prompt": record.prompt, "response": record.response}, ensure_ascii=False) + "\n"
