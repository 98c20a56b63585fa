"""Commands about the jobs that a site was offered: `site jobs`, `site approve`, `site refuse`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yoriai.asking import agree
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.client.job_book import JobBook
    from yoriai.client.site_folder import SiteFolder

_console = Console()
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)]
_Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run: its id, the beginning of it, or its job's name.", show_default=False),
]


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("jobs")(jobs)
    site.command("approve")(approve)
    site.command("refuse")(refuse)


def jobs(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the jobs that this site was offered: what each asks for, what was decided, and what came of it here."""
    from yoriai.client.jobs_table import job_views, jobs_json, print_jobs
    from yoriai.client.jobs_terms import budget_of

    site, book = _opened(folder)
    views, budget = job_views(book.entries(), site.adapters), budget_of(site)
    if as_json:
        typer.echo(json.dumps(jobs_json(views, budget), indent=1))
    else:
        print_jobs(views, budget, _console)


def approve(
    folder: _Folder,
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; the terms have been read.")] = False,
) -> None:
    """Let a job begin that waits for you, after a look at its terms. Other terms, of the same run too, wait anew."""
    from yoriai.client.job_book import operator_name
    from yoriai.client.jobs_terms import budget_of, print_terms

    site, book = _opened(folder)
    entry = book.find(run)
    print_terms(entry, budget_of(site), _console)
    if entry.state in ("approved", "accepted"):
        say(f"run {entry.run_id} was approved before; nothing was changed")
        return
    agree("Shall this site take part on these terms?", yes=yes, otherwise="nothing was changed; the job waits")
    book.decide(entry, "approved", by=operator_name())
    say(f"approved run {entry.run_id}; the site answers so when the coordinator offers it again")


def refuse(folder: _Folder, run: _Run) -> None:
    """Refuse a job; one that runs already ends here with its next message. What it was charged stays spent."""
    from yoriai.client.job_book import operator_name

    _, book = _opened(folder)
    entry = book.decide(book.find(run), "refused", by=operator_name())
    say(f"refused run {entry.run_id}; `yoriai site approve {folder} {entry.run_id}` takes it back")


def _opened(folder: Path) -> "tuple[SiteFolder, JobBook]":
    from yoriai.client.job_book import JobBook
    from yoriai.client.site_folder import SiteFolder

    site = SiteFolder(folder.resolve())
    site.config()
    return site, JobBook(site.jobs)
