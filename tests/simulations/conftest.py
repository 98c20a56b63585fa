"""One finished run of a miniature federation, with every comparison, shared by the tests that only read."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulations.miniature import Miniature
from tests.simulations.secure_world import World
from tests.world import Notebook, job_settings, save_tiny_base, write_sites
from yoriai.client.session.model_session import ModelSession
from yoriai.simulations.audit.canary_audit import base_for
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.report.report import Report
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.options import Options

SIZES = {"a": 30, "b": 24, "c": 20}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its report and what its observer heard."""

    folder: Path
    report: Report
    heard: Notebook


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny base."""
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites with classify records."""
    return write_sites(tmp_path_factory.mktemp("data") / "sites", SIZES)


@pytest.fixture(scope="session")
def run(base: Path, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three private rounds at three sites, compared with everything."""
    folder, heard = tmp_path_factory.mktemp("runs") / "run", Notebook()
    options = Options(compare=True, noise_seed=b"seed")
    report = simulate(data=sites, settings=job_settings(base), out=folder, options=options, observer=heard)
    return Run(folder, report, heard)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """The tiny base and its sites, for federations of every kind."""
    return Miniature.make(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def world(mini: Miniature, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes federations under secure aggregation, by name and settings; their ledgers are closed in the end."""
    with ExitStack() as open_ledgers:
        yield lambda name="secure", **settings: World(mini, tmp_path / name, open_ledgers, **settings)


@pytest.fixture(scope="module")
def session(experiment: Experiment) -> Iterator[ModelSession]:
    """Where the job of a module's own `experiment` is audited."""
    bench = base_for(experiment.job)
    yield bench
    bench.close()
