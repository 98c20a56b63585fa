"""A site's daemon as `yoriai site start DIR --only daemon` runs it, with known noise or an end of the test's choosing.

    python -m tests.deploy.daemon DIR [--seed HEX] [--die STAGE:before|after]

With --die it kills itself, once, when a message of that stage has arrived, before or after it was worked off.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.coordinators import asked
from yoriai import wire
from yoriai.client.daemon.daemon import run
from yoriai.client.daemon.daemon_config import DaemonConfig, config_in
from yoriai.client.daemon.message_worker import OpenSite
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.system.log import EventLog


def main() -> None:
    """Be the daemon."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=bytes.fromhex)
    parser.add_argument("--die", default="")
    given = parser.parse_args()
    config = config_in(given.folder)
    if given.seed is not None:
        config = _seeded(config, given.seed)

    def opened(config: DaemonConfig, log: EventLog, checkpoint: Callable[[], None]) -> OpenSite:
        from yoriai.client.daemon.daemon_site import open_site

        site = open_site(config, log, checkpoint, _hooks(config, given.seed))
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


def _seeded(config: DaemonConfig, seed: bytes) -> DaemonConfig:
    from yoriai.simulations.run.engines import seeded_entropy

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
