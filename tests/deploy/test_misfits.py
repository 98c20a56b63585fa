"""Sites that do not fit: the others' job ends without them, the log says why, and their ledgers stay as they were."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.commands import yoriai
from tests.deploy.processes import wait_until
from tests.deploy.site import Site
from tests.deploy.world import SIZES, Deployment, events_of
from tests.system import needed_library
from tests.world import save_tiny_base
from yoriai import federation_cli
from yoriai.flower import PASS_ON
from yoriai.server.jobs.job_store import StoredJob

pytestmark = pytest.mark.deploy

ROUNDS = 2
FIT = ("north", "south", "west")
# Their SuperNodes get no answer; what their daemons would say is asked by nobody.
BARRED = ("skewed", "expired")
_LASTS = timedelta(seconds=120)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with _office_at(datetime.now(UTC) - timedelta(days=2)):
        world = Deployment(tmp_path_factory.mktemp("misfits"), {**SIZES, "strict": 12, "skewed": 12, "expired": 12})
    try:
        other = save_tiny_base(world.folder / "other-base", seed=1)
        _settle(world.sites["east"], str(world.base), str(other))
        _settle(world.sites["strict"], "epsilon_budget = 1000.0", "epsilon_budget = 0.5")
        world.sites["skewed"].environment = {
            "LD_PRELOAD": needed_library("libfaketime.so.1", "libfaketime"),
            "FAKETIME": "+1h",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            PASS_ON: "LD_PRELOAD FAKETIME FAKETIME_DONT_FAKE_MONOTONIC",
        }
        ends = _let_expire(world, "expired")
        world.start_server()
        for name, site in world.sites.items():
            if name not in BARRED:
                site.start_daemon()
            site.start_node()
        world.wait_ready()
        wait_until(lambda: datetime.now(UTC) > ends, _LASTS.total_seconds(), "the certificate lasts on")
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="module")
def job(world: Deployment) -> StoredJob:
    job = world.submit(federation__rounds=ROUNDS)
    world.wait_for(job)
    return job


def test_the_others_end_the_job_among_themselves(world: Deployment, job: StoredJob) -> None:
    assert [event["answered"] for event in events_of(job, "round")] == [",".join(FIT)] * ROUNDS
    for name in FIT:
        assert world.sites[name].charged(job.run_id) == list(range(ROUNDS))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("east", "another base model"),
        ("strict", "epsilon"),
        pytest.param("skewed", "not connected"),
        pytest.param("expired", "not connected"),
    ],
)
def test_the_log_says_why_a_misfit_is_missing_and_its_ledger_holds_nothing(
    world: Deployment, job: StoredJob, name: str, reason: str
) -> None:
    reasons = [event["reason"] for event in events_of(job, "absent") if event["site"] == name]
    assert any(reason in said for said in reasons), reasons
    paths = list(world.sites[name].places.ledgers.rglob("*.sqlite"))
    assert not paths or world.sites[name].charged(job.run_id) == []


def test_server_status_says_whose_certificate_is_over(world: Deployment, job: StoredJob) -> None:
    done = world.command("server", "status", world.server.path, "--json")
    sites = json.loads(done.stdout)["sites"]
    assert sites["expired"].startswith("barred: ")
    assert "not valid today" in sites["expired"]
    assert {sites[name] for name in (*FIT, "east", "strict")} == {"online"}
    assert sites["skewed"] == "offline"


def test_site_check_finds_the_skewed_clock_and_says_what_helps(world: Deployment) -> None:
    skewed = world.sites["skewed"]
    command = ["site", "check", skewed.folder, "--quick"]
    done = world.command(*command, environment=skewed.environment)
    assert done.returncode == 2
    assert "clock" in done.stdout


def test_the_consortium_signs_no_second_site_of_a_name(world: Deployment, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    assert yoriai("site", "init", twin, "--name", "north", "--yes").code == 0
    assert yoriai("site", "enrol", twin).code == 0
    done = world.office.run("sign", twin / "north.request", "--yes")
    assert done.code == 3
    assert "north" in done.screen


def _settle(site: Site, before: str, after: str) -> None:
    text = site.places.settings.read_text()
    assert before in text
    site.places.settings.write_text(text.replace(before, after))


@contextmanager
def _office_at(now: datetime) -> Iterator[None]:
    """What the consortium's machine takes for the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation_cli, "_now", lambda: now)
        yield


def _let_expire(world: Deployment, name: str) -> datetime:
    """Give a site a certificate that is over soon after it was installed; when."""
    ends = datetime.now(UTC) + _LASTS
    with _office_at(ends - timedelta(days=1)):
        request = world.sites[name].folder / f"{name}.request"
        signed = world.office.run("sign", request, "--replace", "--valid-days", 1, "--yes")
    assert signed.code == 0, signed.screen
    world.sign_roster()
    return ends
