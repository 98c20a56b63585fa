"""A whole federation on this machine: the shipped work orders, real processes, one small job, and what came of it.

Everything is what an operator of three machines would have: a consortium's CA, a server behind nginx, a daemon and a
SuperNode for each site, mutual TLS, ledgers, masks. What is left out is what one machine cannot have: sites that do not
trust each other, and users of their own.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.client.cli.own_ledger import opened
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.records.records import Record
from yoriai.client.session.prepare import prepare
from yoriai.client.site.calibration import calibrated_for
from yoriai.client.versions.adapter_place import folders_of, read_evaluation
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError, RoundError
from yoriai.server.jobs.submitting import submit
from yoriai.simulations.deployment.folders import make_deployment
from yoriai.simulations.deployment.processes import events_in, follow, nginx_binary, running
from yoriai.simulations.scenarios import get_scenario
from yoriai.simulations.scenarios.partition import partition
from yoriai.system.run_files import write_run_file

RESULT: Final = "trial.json"
SITES: Final = range(2, 9)
"""How many sites may be tried; each takes 1.5 GB."""
_SCENARIO: Final = "excavators"
_TRAIN, _TEST = 300, 60
# Rounds of a deployment take as long as its exchanges; these few are enough for a head.
_ROUNDS = 4
Say = Callable[[str], None]


@dataclass(frozen=True)
class SiteOutcome:
    """What a site has after the trial.

    Attributes:
        rounds: that its ledger was charged for.
        epsilon: what they cost one record at most, by its ledger.
        budget: epsilon that the site grants to all jobs together.
        base, trained: right answers on its own test records, before and after; out of `tested`.
        folder: of the adapter that it was given.
    """

    name: str
    records: int
    rounds: int
    epsilon: float
    budget: float
    base: int
    trained: int
    tested: int
    folder: Path


@dataclass(frozen=True)
class Trial:
    """What a trial did.

    Attributes:
        run: the job's.
        seconds: of each part, in order.
        bytes_up, bytes_down: of Yoriai's own messages, a site.
    """

    folder: Path
    run: str
    seconds: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    sites: Sequence[SiteOutcome]

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.folder / "server"


def try_federation(folder: Path, sites: int, say: Say, *, base: str = "") -> Trial:
    """Make a federation, run a job on it, and take its processes down again; the folders stay.

    Args:
        folder: new or empty; its path must be short, for sockets lie in it.
        sites: one of SITES.
        say: told of every step.
        base: the base model, if not the scenario's.

    Raises:
        ConfigError: nginx is not installed, or the folder holds something.
        RoundError: the job did not end well; the folder's logs say why.
        YoriaiError: base or records cannot be fetched, or something did not start.
    """
    nginx_binary()
    _check_empty(folder)
    clock = _Stopwatch(say)
    with clock.part(f"records: {_TRAIN} work orders a site to train on, {_TEST} to measure"):
        records = _write_records(folder / "records", sites)
        job = _job(sites, base)
    with clock.part("consortium, server and sites: folders, keys, certificates, a signed roster"):
        settings = {"base.model": job.base.model, "policy.allow_distributed_noise": True}
        deployment = make_deployment(folder, "trial", records, settings)
    with clock.part("job: the base reads public texts, and the job's first head is made (yoriai job prepare)"):
        prepared = prepare(job)
    with ExitStack() as stack:
        with clock.part("nginx, SuperLink, daemons and SuperNodes start"):
            stack.enter_context(running(folder, deployment, say))
        with clock.part("the job runs: each site trains under its ledger, and sends masked updates"):
            stored = submit(deployment.server.path, prepared, calibrated_for)
            follow(stored, say)
            _wait_for_evaluations(deployment.sites, stored.run_id)
    asked = [event for event in events_in(stored.log_file) if event["event"] == "stage"]
    found = Trial(
        folder,
        stored.run_id,
        clock.seconds,
        bytes_up=sum(int(str(event["bytes_up"])) for event in asked) // sites,
        bytes_down=sum(int(str(event["bytes_down"])) for event in asked) // sites,
        sites=[_outcome(site, stored.run_id) for site in deployment.sites],
    )
    write_run_file(folder / RESULT, json.dumps(_document(found), indent=1).encode())
    return found


class _Stopwatch:
    """Tells of parts as they begin, and keeps how long each took."""

    def __init__(self, say: Say) -> None:
        self._say, self._began = say, 0.0
        self.seconds: dict[str, float] = {}

    def part(self, what: str) -> "_Stopwatch":
        self._say(f"{len(self.seconds) + 1}. {what}")
        self._began, self.seconds[what] = time.monotonic(), 0.0
        return self

    def __enter__(self) -> None:
        """It runs."""

    def __exit__(self, *_: object) -> None:
        last = next(reversed(self.seconds))
        self.seconds[last] = round(time.monotonic() - self._began, 1)


def _check_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", remedy="name a new folder, or remove what a former trial left")


def _write_records(folder: Path, sites: int) -> dict[str, Path]:
    """The work orders dealt out to so many sites; each folder by the site's name."""
    machines = get_scenario(_SCENARIO).sites(0)
    dealt = {
        part: partition([r for machine in machines for r in getattr(machine, part)], sites, "iid", seed=0)
        for part in ("train", "test")
    }
    found = {}
    for number, name in enumerate(dealt["train"], 1):
        place = folder / f"site-{number}"
        place.mkdir(parents=True)
        for part, most in (("train", _TRAIN), ("test", _TEST)):
            (place / f"{part}.jsonl").write_text("".join(map(_line, dealt[part][name][:most])), encoding="utf-8")
        found[f"site-{number}"] = place
    return found


def _line(record: Record) -> str:
    return json.dumps({"prompt": record.prompt, "response": record.response}, ensure_ascii=False) + "\n"


def _job(sites: int, base: str) -> JobConfig:
    """The scenario's job, short, with noise that the sites share."""
    job = get_scenario(_SCENARIO).job()
    return override(
        job,
        {
            "base.model": base or job.base.model,
            "name": "trial",
            "federation.rounds": _ROUNDS,
            "federation.min_sites": sites,
            "privacy.noise": "distributed",
            "training.records_per_weight": _TRAIN,
            "secure_aggregation.window": _ROUNDS,
        },
    )


def _wait_for_evaluations(sites: Sequence[SiteFolder], run_id: str, seconds: float = 120.0) -> None:
    """Sites measure what they were given after their receipt has left."""
    deadline = time.monotonic() + seconds
    while any(_evaluation(site, run_id) is None for site in sites):
        if time.monotonic() >= deadline:
            raise RoundError("a site has not measured what it was given", found=f"nothing after {seconds:.0f} s")
        time.sleep(0.5)


def _evaluation(site: SiteFolder, run_id: str) -> dict[str, Any] | None:
    return next((read_evaluation(folder) for folder in folders_of(site.adapters, run_id)), None)


def _outcome(site: SiteFolder, run_id: str) -> SiteOutcome:
    config = site.config()
    measured = _evaluation(site, run_id)
    assert measured is not None
    with opened(site) as ledger:
        assert ledger is not None
        charges = [charge for charge in ledger.charges() if charge.job_id == run_id]
        epsilon = ledger.spent_for(run_id)
    return SiteOutcome(
        name=config.name,
        records=_TRAIN,
        rounds=len(charges),
        epsilon=epsilon,
        budget=config.policy.epsilon_budget,
        base=measured["before"]["correct"],
        trained=measured["after"]["correct"],
        tested=measured["after"]["answered"],
        folder=next(folders_of(site.adapters, run_id)),
    )


def _document(found: Trial) -> dict[str, Any]:
    return {"schema": 1, **json.loads(json.dumps(asdict(found), default=str))}
