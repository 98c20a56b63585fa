"""A federation of a tiny base and a few records, ready to be run with either engine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.world import job_settings, save_tiny_base, write_sites
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.secagg.work import Work
from yoriai.server.round.registry import Checkpoint
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve
from yoriai.simulations.run.simulated_federation import Federation, Outcome, run_federation
from yoriai.strategies.rule import get_rule, largest_update

SIZES = {"north": 20, "east": 12, "south": 16, "west": 9}


@dataclass(frozen=True)
class Miniature:
    """Where base and records are; every run loads the base anew, as a process of its own would."""

    base: Path
    data: Path

    @classmethod
    def make(cls, folder: Path) -> "Miniature":
        return cls(save_tiny_base(folder / "base"), write_sites(folder / "data", SIZES, test_size=3))

    def experiment(self, **settings: object) -> Experiment:
        """The experiment; keys of settings with __ for the dot."""
        more = {key.replace("__", "."): value for key, value in settings.items()}
        small = {"training.local_steps": 2, "evaluation.every": 0, "training.records_per_weight": 4}
        return resolve(None, DataSource(path=self.data), job_settings(self.base, **{**small, **more}))

    def federation(self, folder: Path, *, engine: str = "inprocess", **settings: object) -> Federation:
        """A federation with repeatable noise."""
        experiment = self.experiment(**settings)
        federation = Federation(
            job=experiment.job,
            sites=experiment.sites,
            roster=experiment.roster(),
            folder=folder,
            run_id="run-1",
            engine=engine,
            noise_seed=b"x",
        )
        if federation.job.privacy.noise != "distributed":
            return federation
        initial = self.session(federation).initial_adapter(federation.job)
        return replace(federation, n_params=largest_update(get_rule(federation.job.federation.rule), initial))

    def session(self, federation: Federation) -> ModelSession:
        job = federation.job
        return ModelSession(load_base(job.base.model, device=choose_device("cpu")), job.speed)

    def run(self, federation: Federation) -> Outcome:
        """Run it in what might be a new process: nothing is kept from an earlier run but the folder."""
        return run_federation(federation, self.session(federation))


def interrupt_after(rounds: int) -> Callable[[Checkpoint], None]:
    """An on_round that ends the run as Ctrl-C would."""

    def stop(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == rounds:
            raise KeyboardInterrupt

    return stop


@dataclass(frozen=True)
class StubDoor:
    """A site that answers with its name, or raises; one that raises may do so before it knows its name."""

    name: str

    def handle(self, data: bytes) -> bytes:
        if self.name == "raising":
            raise RuntimeError("this site raises")
        return data + self.name.encode()


class StubSpec(SiteSpec):
    """Builds such a site where a real one would be built."""

    def build(  # type: ignore[override]
        self, session: ModelSession, ledger: Ledger, hooks: SiteHooks | None = None, work: Work | None = None
    ) -> StubDoor:
        if self.records.name == "broken":
            raise RuntimeError("this site cannot be built")
        return StubDoor(self.records.name)
