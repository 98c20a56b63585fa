"""Ready data sets with the sites, labels and prompt that belong to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from yoriai.client.records.records import SiteRecords
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.simulations.scenarios import commands, excavators, findings


class Sites(Protocol):
    """The records of a scenario's sites, split by a seed; with `validation`, as they serve for tuning."""

    def __call__(self, seed: int = 0, *, validation: bool = False) -> tuple[SiteRecords, ...]: ...


@dataclass(frozen=True)
class Scenario:
    """A data set with its sites, and the job that goes with it."""

    name: str
    title: str
    licence: str
    source: str
    sites: Sites
    job: Callable[[], JobConfig]


DEFAULT: Final = "excavators"
_READY: Final = (
    Scenario(
        name="excavators",
        title=excavators.TITLE,
        licence=excavators.LICENCE,
        source=excavators.SOURCE,
        sites=excavators.excavators,
        job=excavators.default_job,
    ),
    Scenario(
        name="commands",
        title=commands.TITLE,
        licence=commands.LICENCE,
        source=commands.SOURCE,
        sites=commands.commands,
        job=commands.default_job,
    ),
    Scenario(
        name="findings",
        title=findings.TITLE,
        licence=findings.LICENCE,
        source=findings.SOURCE,
        sites=findings.findings,
        job=findings.default_job,
    ),
)
SCENARIOS: Final[Mapping[str, Scenario]] = {scenario.name: scenario for scenario in _READY}


def get_scenario(name: str) -> Scenario:
    """The scenario of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SCENARIOS:
        raise ConfigError("no such scenario", found=repr(name), expected=" or ".join(sorted(SCENARIOS)))
    return SCENARIOS[name]
