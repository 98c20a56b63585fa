"""Daemons of one or more sites in one process, each as `yoriai site start DIR --only daemon` runs it, without training.

    python -m yoriai.simulations.bench.deploy.daemons DIR ...

Socket, message worker, policy, ledger, keys, windows, masks and the stored adapter are a site's own. Only the gradients
are not: an update is random values, of the size that training would make. Where the noise is distributed, one random
gradient is clipped, rotated, rounded and noised as a real one.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np

from yoriai import wire
from yoriai.client.daemon.daemon import Reception, harden
from yoriai.client.daemon.daemon_config import DaemonConfig, config_in
from yoriai.client.daemon.daemon_site import open_site
from yoriai.client.daemon.listener import Listener
from yoriai.client.daemon.message_worker import MessageWorker, OpenSite
from yoriai.client.site.job import Round
from yoriai.client.site.round_trainer import Progress, SiteHooks
from yoriai.client.training.shared_round import SharedSum, skellam_table
from yoriai.client.training.train import LocalUpdate
from yoriai.errors import TrainingError
from yoriai.privacy.distributed.distributed_noise import RoundedSum
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.dp.accounting import Accountant, Cost, Events, cost
from yoriai.privacy.dp.events import merged
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.noise import DistributedNoise, LocalNoise
from yoriai.privacy.job_terms.round_terms import rotation_seed
from yoriai.simulations.bench.deploy.figures import WORKED
from yoriai.strategies.adapter import AdapterState
from yoriai.system.log import EventLog
from yoriai.system.signals import wake_up_call

_SIZE = np.float32(1e-3)
# transformers sets the default type for all threads while it loads a model.
_opening = threading.Lock()


def random_values(this: Round, source: RandomSource, progress: Progress) -> LocalUpdate | SharedSum:
    """In place of `train_charged`: random values of an update's size; where noise is distributed, one random gradient.

    Raises:
        TrainingError: the job is without privacy.
    """
    plan, generator = this.plan, np.random.default_rng()
    match plan.noise:
        case DistributedNoise(shares=shares, n_params=n_params):
            rotation = Rotation(rotation_seed(this.job.run_id, this.index, this.start.digest()), n_params)
            total = RoundedSum(shares, rotation, plan.clip_norm, source)
            total.add(generator.standard_normal((1, n_params), np.float32))
            return SharedSum(total.release(skellam_table(shares.share_variance)), plan.noise.event(plan.sampling_rate))
        case LocalNoise():
            start = this.start.select(plan.factors).tensors
            values = {name: _SIZE * generator.standard_normal(value.shape, np.float32) for name, value in start.items()}
            return LocalUpdate(AdapterState(values), plan.noise.event(plan.sampling_rate, plan.local_steps))
        case _:
            raise TrainingError("the benchmark has no updates without privacy")


def stage_of(header: Mapping[str, object]) -> str:
    """The stage that a message belongs to, by the names of the coordinator's log."""
    kind = str(header.get("kind", ""))
    named = {
        "job_offer": "offer",
        "window_request": wire.WINDOW_STAGES[0],
        "train_request": wire.SLOT_STAGES[0],
        "delivery": wire.DELIVERY_STAGE,
    }
    return named.get(kind) or str(header.get("stage") or kind)


class TimedSite:
    """A site that logs how long it worked on each message."""

    def __init__(self, site: OpenSite, name: str, log: EventLog) -> None:
        self._site, self._name, self._log = site, name, log
        self.afterwards, self.budget, self.close = site.afterwards, site.budget, site.close

    def handle(self, data: bytes) -> bytes:
        """Answer, and log the seconds."""
        stage, started = stage_of(wire.peek(data)), time.monotonic()
        reply = self._site.handle(data)
        self._log.event(WORKED, site=self._name, stage=stage, seconds=round(time.monotonic() - started, 4))
        return reply


class SharedCosting:
    """Adds up once for all sites of this process, which are asked the same at the same moment.

    Sites of their own machines each have a process for it, of 0.1 GB.
    """

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), lru_cache(maxsize=256)(cost)

    def __call__(self, events: Events, delta: float, accountant: Accountant = "pld") -> Cost:
        """As `accounting.cost`."""
        with self._lock:
            return self._known(merged(events), delta, accountant)

    def close(self) -> None:
        """There is nothing to end."""


def _opened(
    config: DaemonConfig, log: EventLog, checkpoint: Callable[[], None], costing: SharedCosting | None
) -> OpenSite:
    with _opening:
        site = open_site(config, log, checkpoint, SiteHooks(train=random_values), costing)
    return TimedSite(site, config.site.name, log)


def serve(folders: Sequence[Path], log: EventLog) -> None:
    """Be the daemons of these sites until SIGTERM, SIGINT or SIGHUP. Call it in a process's main thread.

    Raises:
        YoriaiError: a site cannot be opened.
    """
    harden()
    configs = [config_in(folder) for folder in folders]
    costing = SharedCosting() if len(configs) > 1 else None
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(config.socket)) for config in configs]
        woken, wake = stack.enter_context(wake_up_call())
        desks, receptions = [], []
        for config, listener in zip(configs, listeners, strict=True):
            desk = MessageWorker(
                lambda checkpoint, config=config: _opened(config, log, checkpoint, costing),  # type: ignore[misc]
                log,
                waiting=config.waiting,
                on_failure=wake,
            )
            desk.start()
            desks.append(desk)
            # Each looks at the one socket that wakes them all, and takes nothing from it.
            receptions.append(threading.Thread(target=Reception(config, desk, log).receive, args=(listener, woken)))
            receptions[-1].start()
        for reception in receptions:
            reception.join()
        for listener, desk in zip(listeners, desks, strict=True):
            listener.stop()
            desk.finish(grace_s=0.0)
    for desk in desks:
        if desk.failure is not None:
            raise desk.failure


if __name__ == "__main__":
    serve([Path(folder) for folder in sys.argv[1:]], EventLog(sys.stderr, as_json=True))
