"""A server's and a site's folder with what a few weeks leave in them, and a console served from each."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.client.books import terms
from tests.commands import found, server, site
from tests.privacy.ledgers import charge
from tests.server.enrolling import NAMES, enrolled
from tests.server.versions_made import finished, queued
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.job_book import JobBook
from yoriai.client.versions.adapter_place import EVALUATION, EVALUATION_SCHEMA, STATEMENT, folder_of
from yoriai.console.access import Access
from yoriai.console.pages import Console
from yoriai.console.running import served
from yoriai.privacy.dp.accounting import SampledGaussian, event_to_dict
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import second_place
from yoriai.server.channels.changing import promote
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.recording import records_of

EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=2)
HOSTILE = "<script>document.title='taken'</script>\"'><img src=x onerror=alert(1)>"
DIGEST = "cd" * 32


def stored_server(home: Path) -> ServerFolder:
    """An enrolled server: two versions, of which one is in a channel, a job that failed and one that waits."""
    machine = ServerFolder(server(home / "server"))
    enrolled(machine, found(home / "consortium"), {name: site(home / name, name) for name in NAMES})
    first = finished(machine, seed=1)
    finished(machine, seed=2)
    queued(machine, seed=3).change(phase="failed", error="too few sites")
    queued(machine, seed=4).change(phase="queued")
    with records_of(machine) as records:
        promote(records, first.run_id, "staging", None, force_why="")
    return machine


def stored_site(home: Path) -> SiteFolder:
    """A site: an adapter with its evaluation, a job at work, one that waits, one that is refused; charges, a raise."""
    place = SiteFolder(site(home / "north", "north"))
    book, ledger_file = JobBook(place.jobs), place.ledgers / "records.sqlite"
    event = event_to_dict(EVENT)
    for run in ("pumps-1", "pumps-2", "pumps-3"):
        offered = terms(run, event=event, epsilon=1.9)
        if run == "pumps-3":
            book.consider(offered, rounds_done=0)
            continue
        book.decide(book.consider(offered), "approved", by="hana", reason="agreed on Monday")
        book.accept(offered)
    book.decide(book.consider(terms("cabins-1", name="cabins")), "refused", by="hana", reason="not our field")
    policy = place.config().policy
    ledger = Ledger.open(
        ledger_file,
        dataset="records",
        epsilon_budget=policy.epsilon_budget,
        delta=policy.delta,
        clock=time.time,
        witness=second_place(place.place(place.config().ledger.witness) / ledger_file.name),
    )
    with ledger:
        for run, rounds in (("pumps-1", 4), ("pumps-2", 2)):
            ledger.approve(run, EVENT, 6)
            charge(ledger, run, rounds, EVENT)
        ledger.finish("pumps-1")
    book.finish("pumps-1", DIGEST, 4)
    deliver(place, "pumps-1", DIGEST)
    return place


def deliver(place: SiteFolder, run: str, digest: str, *, gained: int = 12, lost: int = 2) -> None:
    """What a delivery leaves, as far as it is shown."""
    folder = folder_of(place.adapters, run, digest)
    folder.mkdir(mode=0o700)
    score = {"records": 40, "answered": 40, "loss": 1.0}
    before, after = score | {"correct": 20, "accuracy": 0.5}, score | {"correct": 30, "accuracy": 0.75}
    paired = {"gained": gained, "lost": lost}
    document = {"schema": EVALUATION_SCHEMA, "task": "classify", "before": before, "after": after, "paired": paired}
    (folder / EVALUATION).write_text(json.dumps(document))
    (folder / STATEMENT).write_text("yoriai-delivery-1\n")


class Visitor:
    """Who has opened a console's link, with a client that keeps the cookie.

    Args:
        access: of the console.
        role: whose link it is.
    """

    def __init__(self, access: Access, role: Any = "read") -> None:
        link, self.access = access.links[role], access
        self.origin = link.partition("/enter")[0]
        self.client = httpx.Client(base_url=self.origin, timeout=60)
        assert self.client.get(link).status_code == 200

    def page(self, path: str, **headers: str) -> str:
        """A page that is there."""
        answer = self.client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.text

    def form_key(self, path: str) -> str:
        """What the forms of a page hold."""
        return self.page(path).partition('name="form_key" value="')[2].partition('"')[0]

    def send(self, action: str, **fields: str) -> httpx.Response:
        """Send a form as the page at `/` of this console would."""
        return self.client.post(f"/do/{action}", data=fields, headers={"Origin": self.origin})


@contextmanager
def opened(console: Console) -> Iterator[Access]:
    """A console that is served on any port."""
    with served(console, 0) as access:
        yield access
