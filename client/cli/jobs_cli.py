"""Commands about the jobs that a site was offered: `site jobs`, `site approve`, `site refuse`, `site release`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yoriai.asking import agree
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.offer.job_book import JobBook
    from yoriai.client.offer.job_entry import Entry

_console = Console()
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)]
_Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run: its id, the beginning of it, or its job's name.", show_default=False),
]
_Reason = Annotated[str, typer.Option("--reason", help="Why; kept with your name, for good.")]


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("jobs")(jobs)
    site.command("approve")(approve)
    site.command("refuse")(refuse)
    site.command("release")(release)
    site.command("decisions")(decisions)


def jobs(
    folder: _Folder,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Show all terms of this run.", show_default=False)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that ended without an adapter, or are offered no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the jobs that this site was offered: what each asks for, what was decided, and what came of it here."""
    from yoriai.client.cli.jobs_table import job_views, jobs_json, print_jobs
    from yoriai.client.cli.jobs_terms import budget_of
    from yoriai.client.cli.room import room_for
    from yoriai.client.offer.job_entry import is_current

    site, book = _opened(folder)
    entries = book.entries() if run is None else [book.find(run)]
    everything, now = every or as_json or run is not None, time.time()
    kept = [entry for entry in entries if everything or is_current(entry, now)]
    left_out, entries = len(entries) - len(kept), kept
    views = job_views(entries, site.adapters, lambda terms: room_for(site, terms))
    if as_json:
        typer.echo(json.dumps(jobs_json(views, budget_of(site)), indent=1))
    elif run is None:
        print_jobs(views, budget_of(site), _console)
        if left_out:
            say(f"{left_out} more that ended without an adapter, or are offered no more: --all shows them")
    else:
        _show(site, entries[0])


def decisions(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show every decision about jobs and budget at this site: when, what, by whom and why."""
    from dataclasses import asdict

    from yoriai.client.cli.jobs_terms import day_of, printable
    from yoriai.client.offer.decision_log import DecisionLog

    site, _ = _opened(folder)
    found = DecisionLog(site.jobs, time.time).all()
    if as_json:
        typer.echo(json.dumps({"schema": 1, "decisions": [asdict(each) for each in found]}, indent=1))
        return
    for each in found:
        of = f" run {each.run}" if each.run else ""
        why = f": {each.reason}" if each.reason else ""
        say(printable(f"{day_of(each.at)}  {each.what}{of} by {each.by}{why}"))
    if not found:
        say("nothing was decided yet")


def approve(
    folder: _Folder,
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; the terms have been read.")] = False,
    reason: _Reason = "",
) -> None:
    """Let a job begin that waits for you, after a look at its terms. Other terms, of the same run too, wait anew."""
    from yoriai.client.cli import deciding

    site, book = _opened(folder)
    entry = book.find(run)
    _show(site, entry)
    if entry.state not in ("approved", "accepted"):
        agree("Shall this site take part on these terms?", yes=yes, otherwise="nothing was changed; the job waits")
    for line in deciding.approve(book, entry, reason):
        say(line)


def refuse(folder: _Folder, run: _Run, reason: _Reason = "") -> None:
    """Refuse a job, and free its unused rounds; one at work ends here with its next message. Charges stay spent."""
    from yoriai.client.cli import deciding

    site, book = _opened(folder)
    for line in deciding.refuse(site, book, book.find(run), reason):
        say(line)


def release(
    folder: _Folder,
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; the run will not come back.")] = False,
    reason: _Reason = "",
) -> None:
    """Give up a run whose coordinator never came back, for good: free its unused rounds. Charges stay spent."""
    from yoriai.client.cli.deciding import freed
    from yoriai.client.cli.own_ledger import check_writer, free, held, opened
    from yoriai.client.offer.decision_log import checked_reason
    from yoriai.client.offer.job_entry import OVER
    from yoriai.system.users import operator_name

    site, book = _opened(folder)
    check_writer(site)
    with opened(site) as ledger:
        only_there = ledger is not None and run in ledger.open_plans() and book.entry(run) is None
    entry = None if only_there else book.find(run)  # The book forgets the oldest, the ledger nothing.
    run_id = entry.run_id if entry else run
    rounds, epsilon = held(site, run_id)
    say(f"run {run_id}: {rounds} unused rounds hold epsilon {epsilon_text(epsilon)}")
    if entry is None or entry.state not in OVER:
        say("it ends here for good: whatever its coordinator sends is refused, its last adapter too")
        agree("Shall it be given up?", yes=yes, otherwise="nothing was changed; the rounds are held")
    if entry is not None:
        book.release(run_id, by=operator_name(), reason=checked_reason(reason))
    for line in freed(*free(site, run_id)):
        say(line)


def _show(site: "SiteFolder", entry: "Entry") -> None:
    from yoriai.client.cli.jobs_terms import budget_of, print_terms, records_here
    from yoriai.client.cli.room import room_for

    room = room_for(site, entry.terms) if entry.state in ("waiting", "refused") else None
    print_terms(entry, budget_of(site), records_here(site, entry.terms.config()), _console, room)


def _opened(folder: Path) -> "tuple[SiteFolder, JobBook]":
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.offer.job_book import JobBook

    site = SiteFolder(folder.resolve())
    site.config()
    return site, JobBook(site.jobs)
