"""A site's daemon as `yoriai site start DIR --only daemon` runs it, with known noise or an end of the test's choosing.

    python -m tests.deploy.daemon DIR [--seed HEX] [--die STAGE:before|after] [--gate]

With --die it kills itself, once, when a message of that stage has arrived, before or after it was worked off. With
--gate it lets a message lie for as long as DIR/gate names its stage, and which of a run's messages of that stage it is
("mask 2"); DIR/at-gate says of which run one lies there.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.coordinators import asked
from yoriai import wire
from yoriai.client.daemon.daemon import run
from yoriai.client.daemon.daemon_config import DaemonConfig, config_in
from yoriai.client.daemon.message_worker import OpenSite
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.errors import WireError
from yoriai.system.log import EventLog


def main() -> None:
    """Be the daemon."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=bytes.fromhex)
    parser.add_argument("--die", default="")
    parser.add_argument("--gate", action="store_true")
    given = parser.parse_args()
    config = config_in(given.folder)
    if given.seed is not None:
        config = _seeded(config, given.seed)

    def opened(config: DaemonConfig, log: EventLog, checkpoint: Callable[[], None]) -> OpenSite:
        from yoriai.client.daemon.daemon_site import open_site

        site = open_site(config, log, checkpoint, _hooks(config, given.seed))
        if given.gate:
            return Gated(site, given.folder)
        return Dying(site, given.die, given.folder / "has-died") if given.die else site

    run(config, EventLog(sys.stderr, as_json=True), opened)


def stage_of(data: bytes) -> str:
    """The stage that a message belongs to, by the names of the coordinator's log."""
    message = asked(data)
    if isinstance(message, wire.JobOffer):
        return "offer"
    if isinstance(message, wire.WindowRequest):
        return wire.WINDOW_STAGES[0]
    if isinstance(message, wire.TrainRequest):
        return wire.SLOT_STAGES[0]
    return message.stage if isinstance(message, wire.SecureStage) else message.kind


class Dying:
    """A site that is killed while it works."""

    def __init__(self, site: OpenSite, when: str, mark: Path) -> None:
        self._site, self._mark = site, mark
        self._stage, _, self._when = when.partition(":")
        self.budget, self.afterwards, self.close = site.budget, site.afterwards, site.close

    def handle(self, data: bytes) -> bytes:
        """Answer, or die."""
        due = stage_of(data) == self._stage and not self._mark.exists()
        if due and self._when == "before":
            self._die()
        reply = self._site.handle(data)
        if due:
            self._die()
        return reply

    def _die(self) -> None:
        self._mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Gated:
    """A site that keeps its job in a stage until a test has done what it wants to do there, however long that takes."""

    def __init__(self, site: OpenSite, folder: Path) -> None:
        self._site, self._gate, self._at_gate = site, folder / "gate", folder / "at-gate"
        self._asked: Counter[tuple[str, str]] = Counter()
        self.budget, self.afterwards, self.close = site.budget, site.afterwards, site.close

    def handle(self, data: bytes) -> bytes:
        """Answer once the gate is open."""
        with suppress(WireError):
            run, stage = asked(data).run_id, stage_of(data)
            self._asked[run, stage] += 1
            self._wait(f"{stage} {self._asked[run, stage]}", run)
        return self._site.handle(data)

    def _wait(self, here: str, run: str) -> None:
        with suppress(FileNotFoundError):
            while self._gate.read_text() == here:
                self._at_gate.write_text(f"{here} {run}")
                time.sleep(0.05)


def _seeded(config: DaemonConfig, seed: bytes) -> DaemonConfig:
    from yoriai.simulations.engines.site_spec import seeded_entropy

    known, name = config.identity, config.site.name
    assert known is not None
    return replace(config, identity=lambda: replace(known(), entropy=seeded_entropy(seed, name)))


def _hooks(config: DaemonConfig, seed: bytes | None) -> SiteHooks | None:
    from yoriai.privacy.dp.randomness import SeededSource

    if seed is None:
        return None
    name = config.site.name.encode()
    return SiteHooks(randomness=lambda _run, index: SeededSource(b"%b:%b:%d" % (seed, name, index)))


if __name__ == "__main__":
    main()
