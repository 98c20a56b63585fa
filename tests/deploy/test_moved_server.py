"""A server that came out of its backup, at another place and without what Flower knew: the same sites train on."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.deploy.processes import wait_until
from tests.deploy.world import Deployment, events_of
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]
# As the table of backups in docs/operate/recovery.md has them.
KEPT = ("server.toml", "keys", "tls", "trust", "members", "jobs", "versions")


def backup(folder: Path, file: Path) -> None:
    subprocess.run(["tar", "--create", "--file", file, "--directory", folder, *KEPT], check=True)


def restored(file: Path, folder: Path) -> ServerFolder:
    folder.mkdir(mode=0o700)
    subprocess.run(["tar", "--extract", "--preserve-permissions", "--file", file, "--directory", folder], check=True)
    return ServerFolder(folder)


def log_of(world: Deployment) -> list[dict[str, object]]:
    done = world.command("server", "log", world.server.path, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_server_restored_elsewhere_from_its_backup_goes_on_with_the_same_sites_versions_and_log(
    tmp_path: Path,
) -> None:
    world = Deployment(tmp_path, {"north": 12, "east": 12, "south": 16})
    try:
        world.start()
        first = world.submit(federation__rounds=1)
        world.wait_for(first)
        assert (
            world.command("server", "promote", world.server.path, first.run_id, "--channel", "production").returncode
            == 0
        )
        before = log_of(world)
        world.keeper.stop()
        world.nginx.stop()
        old = world.server.path
        backup(old, tmp_path / "office.tar")
        old.rename(tmp_path / "gone")

        world.server = restored(tmp_path / "office.tar", tmp_path / "elsewhere")
        renewed = world.command("server", "init", world.server.path, "--renew", "--yes")
        assert renewed.returncode == 0, renewed.stderr
        assert "systemctl reload nginx" in renewed.stdout
        assert all(str(old) not in path.read_text() for path in (world.server.nginx_site, world.server.unit))
        world.start_server()
        second = world.submit(federation__rounds=2)
        world.wait_for(second)
        ended_with_all(world, second)

        assert world.command("server", "log", world.server.path, "--verify").returncode == 0
        assert log_of(world)[: len(before)] == before
        listed = json.loads(world.command("server", "versions", world.server.path, "--json").stdout)
        assert [one["run"] for one in listed["versions"]] == [first.run_id, second.run_id]
        assert listed["channels"] == {"production": first.run_id}
    finally:
        world.stop()


def ended_with_all(world: Deployment, job: StoredJob) -> None:
    """Every site was in every round, was charged for it, and has the adapter."""
    wait_until(lambda: len(events_of(job, "delivered")) == len(world.sites), 120.0, lambda: world.tell(job))
    for site in world.sites.values():
        site.stop()
        assert site.charged(job.run_id) == [0, 1]
