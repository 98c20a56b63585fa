"""Consoles of a deployment that runs: a round arrives, a yes is given in the browser, and what breaks is seen."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browsers import browser, visit
from tests.commands import yoriai
from tests.console.processes import console_process
from tests.deploy.processes import wait_until
from tests.deploy.world import Deployment
from yoriai.client.offer.job_book import JobBook

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]
_LONG_MS = 600_000
SITES = {"north": 20, "east": 12, "south": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("consoles"), SITES, approve="ask")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def go(page: Page, path: str) -> None:
    page.goto("/".join(page.url.split("/")[:3]) + path, wait_until="load")


def test_a_job_goes_from_a_yes_in_the_browser_over_a_killed_superlink_to_its_end_and_a_revoked_site_turns_grey(
    world: Deployment,
) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(browser())
        places = (("server", world.server.path), ("site", world.sites["north"].folder))
        server, north = (
            stack.enter_context(console_process(party, "console", place, "--allow-actions"))[1]
            for party, place in places
        )
        operator, officer = (stack.enter_context(visit(made, link)) for link in (north, server))
        world.hold("mask", 2)
        job = world.submit(federation__rounds=3)
        go(officer, f"/jobs/{job.run_id}")

        # A yes: by command at two sites, in the browser at the third.
        for name in ("east", "south"):
            book = JobBook(world.sites[name].places.jobs)
            wait_until(lambda book=book: book.entry(job.run_id) is not None, 240, lambda: world.tell(job))  # type: ignore[misc]
            assert yoriai("site", "approve", world.sites[name].folder, job.run_id, "--yes").code == 0
        expect(operator.get_by_text(f"Job {job.run_id} waits for your answer.")).to_be_visible(timeout=_LONG_MS)
        go(operator, f"/jobs/{job.run_id}")
        operator.get_by_label("This site shall take part on these terms").check()
        operator.get_by_role("button", name="Approve the job").click()
        expect(operator.get_by_text(f"approved run {job.run_id}")).to_be_visible()

        # A round arrives on the page by itself; then the SuperLink is killed, and the job goes on.
        expect(officer.get_by_text("running")).to_be_visible(timeout=_LONG_MS)
        expect(officer.locator(".grid thead th", has_text=re.compile("^1$"))).to_be_visible(timeout=_LONG_MS)
        world.wait_held(job)
        world.kill(world.superlink())
        (world.gated.folder / "gate").unlink()
        expect(officer.get_by_text("finished")).to_be_visible(timeout=_LONG_MS)
        assert job.state().starts == 2
        expect(officer.locator(".grid .yes")).to_have_count(9)
        go(operator, "/adapters")
        expect(operator.get_by_role("link", name=job.run_id)).to_be_visible(timeout=_LONG_MS)

        # A member that is revoked turns from connected to barred.
        go(officer, "/sites")
        row = officer.locator("tr", has_text="south")
        expect(row.locator(".state.good")).to_be_visible(timeout=_LONG_MS)
        assert world.office.run("revoke", "south", "--yes").code == 0
        assert world.office.run("roster").code == 0
        lists = [part for name in ("roster", "revocations") for part in (f"--{name}", _list(world, name))]
        assert yoriai("server", "enrol", world.server.path, *lists, "--yes").code == 0
        expect(row.locator(".state.bad")).to_be_visible(timeout=_LONG_MS)
        expect(row).to_contain_text("barred")
        expect(officer.locator("tr", has_text="north").locator(".state.good")).to_be_visible(timeout=_LONG_MS)


def _list(world: Deployment, name: str) -> Path:
    return world.office.folder / {"roster": "roster", "revocations": "revocations.der"}[name]
