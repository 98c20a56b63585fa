"""The shipped alert rules and the dashboard speak of metrics that are served, and the rules fire on what they say."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.system import needed
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.daemon.message_worker import Health
from yoriai.client.daemon.site_metrics import daemon_readings, node_readings
from yoriai.client.folder.site_folder import make_site
from yoriai.config import SiteConfig, server_to_toml
from yoriai.config.server import ServerConfig
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service.server_metrics import readings
from yoriai.system.metrics import Reading

FOLDER = Path(__file__).parents[1] / "docs" / "operate" / "monitoring"
RULES, DASHBOARD = FOLDER / "yoriai.rules.yml", FOLDER / "yoriai.dashboard.json"


class _Kept:
    is_running, restarts = True, 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every metric of a server, a daemon and a SuperNode, by the name that Prometheus has."""
    home = tmp_path_factory.mktemp("monitored")
    (home / "server").mkdir(mode=0o700)
    (home / "server" / "server.toml").write_text(server_to_toml(ServerConfig(name="office", hosts=("h.example",))))
    site = make_site(home / "site", SiteConfig(name="north"))
    health = Health(budget={"epsilon_budget": 16.0, "spent": 0.0, "left": 16.0, "charged_rounds": 0.0})
    every: list[Reading] = [
        *readings(ServerFolder(home / "server")),
        *daemon_readings(config_in(site.path), health),
        *node_readings("north", _Kept()),
    ]
    return {f"yoriai_{one.name}{'_total' * (one.kind == 'counter')}": set(one.labels) for one in every}


def expressions() -> list[str]:
    """Every expression of rules and dashboard."""
    rules = re.findall(r"(?m)^ +expr: (.*)$", RULES.read_text(encoding="utf-8"))
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_metric_and_label_of_rules_and_dashboard_is_served(served: dict[str, set[str]]) -> None:
    assert len(expressions()) > 20
    for expression in expressions():
        names = set(re.findall(r"yoriai_\w+", expression))
        assert names <= served.keys(), expression
        known = {"instance", "job"}.union(*(served[name] for name in names))
        used = re.findall(r"(\w+)(?:=~|!=|=)\"", expression)
        used += [label for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")]
        assert set(used) <= known, expression


def test_every_figure_of_the_dashboard_has_a_place_and_a_name() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["title"] for panel in panels)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("check", "rules", RULES.name), ("test", "rules", "yoriai.test.yml")])
def test_prometheus_own_tool_takes_the_rules_and_they_fire_on_what_they_say(arguments: tuple[str, ...]) -> None:
    tool = needed("promtool", "prometheus")
    done = subprocess.run([tool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
