"""How a simulated run is done."""

from dataclasses import dataclass

from yoriai.config import JobConfig


@dataclass(frozen=True)
class Options:
    """How a run is done, beside what it does.

    Attributes:
        engine: `inprocess`, `one-pass` or `flower`.
        ray_address: HOST:PORT of a Ray cluster whose nodes play the sites, with the flower engine; empty: this machine.
        compare: also train each site alone, without privacy, and at one place.
        alone: train each site alone even without `compare`. None does where a head trains, since that costs seconds.
        samples: show some test records with the answers before and after in the report of an instruct task.
        files: write the report's files; a trial whose folder is thrown away needs none, and drawing takes seconds.
        tracker: `mlflow` or `trackio`, which the extra `track` brings; it is told of the figures in metrics.jsonl.
        noise_seed: tests only; repeatable noise voids every guarantee.
    """

    engine: str = "inprocess"
    ray_address: str = ""
    compare: bool = False
    alone: bool | None = None
    samples: bool = True
    files: bool = True
    tracker: str = ""
    noise_seed: bytes | None = None

    def each_alone(self, job: JobConfig) -> bool:
        """Whether each site is trained alone too, where no other comparison is asked for."""
        return job.trains_head if self.alone is None else self.alone
