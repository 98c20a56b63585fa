"""Versions and what sites say of them, over real sites: delivered, pulled, voted on, promoted by votes, checked."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Outcome, yoriai
from tests.real_versions import consortium, finished_on
from tests.server.enrolling import NAMES
from tests.server.faulty import FaultyTransport
from tests.world import save_tiny_base, write_sites
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.daemon.daemon_site import LoadedSite, open_site
from yoriai.errors import EXIT_REFUSED
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.messenger import Transport
from yoriai.server.service.errands import Errands, run_errand
from yoriai.system.log import EventLog

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


@dataclass
class Answering:
    """A real site, which does what is left to do once its reply is out."""

    site: LoadedSite

    def handle(self, data: bytes) -> bytes:
        reply = self.site.handle(data)
        self.site.afterwards()
        return reply


@dataclass
class World:
    """A server and real sites: north tells counts, south withholds them."""

    home: Path
    base: Path
    sites: dict[str, Answering]
    log: io.StringIO

    def __post_init__(self) -> None:
        self.transport = FaultyTransport(self.sites)  # type: ignore[arg-type]

    @property
    def server(self) -> Path:
        return self.home / "server"

    def errands(self, count: int) -> None:
        for _ in range(count):
            folder = ServerFolder(self.server)
            Errands(folder).begin()
            run_errand(folder, self._connect)

    def _connect(self, *_: object) -> Transport:
        return self.transport

    def run(self, *command: object) -> Outcome:
        return yoriai(*command)

    def rows(self, *events: str) -> list[dict[str, Any]]:
        found = map(json.loads, yoriai("server", "log", self.server, "--json").screen.splitlines())
        return [row for row in found if row["event"] in events]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = save_tiny_base(tmp_path_factory.mktemp("base"))
    home, log = consortium(tmp_path_factory.mktemp("judged"), base), io.StringIO()
    write_sites(home / "records", dict.fromkeys(NAMES, 6), test_size=9)
    with ExitStack() as opened:
        fakes = {}
        for name in NAMES:
            (home / name / "data").parent.mkdir(exist_ok=True)
            (home / "records" / name).rename(home / name / "data")
            config = home / name / "site.toml"
            if name == "north":
                config.write_text(config.read_text().replace("count_epsilon = 0.0", "count_epsilon = 0.5", 1))
            loaded = open_site(config_in(home / name), EventLog(log, as_json=True), lambda: None)
            fakes[name] = Answering(opened.enter_context(closing(loaded)))
        yield World(home, base, fakes, log)


def test_a_candidate_is_delivered_voted_on_and_checked_and_only_who_allows_it_tells_and_pays(world: World) -> None:
    first = finished_on(world.home, world.base, "first")
    gated = {"gate.votes": 1, "training.seed": 3}
    second = finished_on(world.home, world.base, "second", **gated)
    assert world.run("server", "promote", world.server, first.run_id, "--channel", "production").code == 0
    world.errands(1)
    for name in NAMES:
        pulled = world.run("site", "pull", world.home / name)
        assert pulled.code == 0, pulled.screen
    world.errands(1)
    assert {(row["event"], row["site"]) for row in world.rows("pulled")} == {("pulled", name) for name in NAMES}

    too_early = world.run("server", "promote", world.server, second.run_id, "--channel", "production")
    assert (too_early.code, "gate.votes: found 0 sites" in too_early.screen) == (EXIT_REFUSED, True)
    assert world.run("server", "promote", world.server, second.run_id).code == 0
    world.errands(3)
    (vote,) = world.rows("voted")
    assert (vote["site"], vote["run"], vote["epsilon"], vote["period"]) == ("north", second.run_id, 0.5, 0)
    (withheld,) = world.rows("withheld")
    assert (withheld["site"], "policy.count_epsilon is 0" in withheld["reason"]) == ("south", True)
    shown = json.loads(world.run("server", "show", world.server, second.run_id, "--json").screen)
    assert shown["votes"] == {"north": [*vote["counts"], vote["deviation"]]}
    forced = ("--force", "--why", "its noise might have spoken against it")
    assert world.run("server", "promote", world.server, second.run_id, "--channel", "production", *forced).code == 0

    assert world.run("server", "rollback", world.server).code == 0
    world.errands(1)
    for name in NAMES:
        assert world.run("site", "pull", world.home / name).code == 0
    assert world.run("server", "schedule", world.server, "--now").code == 0
    world.errands(3)
    view = json.loads(world.run("server", "schedule", world.server, "--json").screen)
    (check,) = view["checks"]
    assert (check["period"], check["answered"], check["withheld"], view["drift"]) == (1, ["north"], ["south"], None)
    assert world.run("server", "log", world.server, "--verify").code == 0
    charged = {name: fake.site.budget()["charged_rounds"] for name, fake in world.sites.items()}
    assert charged == {"north": 2, "south": 0}
    assert world.run("server", "schedule", world.server).code == 0
