"""The console of a site, put together."""

from yoriai.client.console.acts import SiteActs
from yoriai.client.console.watched import WatchedSite
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.console.pages import Console, Download, Page
from yoriai.privacy.dp.wording import epsilon_text


def console_of(site: SiteFolder, *, allow_actions: bool) -> Console:
    """Pages, files and, where they are allowed, actions of a site."""
    watched = WatchedSite(site)
    pages = (
        Page("/", "Overview", "overview.html.j2", watched.overview),
        Page("/jobs", "Jobs", "jobs.html.j2", watched.jobs),
        Page("/jobs/{run:path}", "Job", "job.html.j2", watched.job, every_s=0, in_menu=False),
        Page("/budget", "Budget", "budget.html.j2", watched.budget),
        Page("/adapters", "Adapters", "adapters.html.j2", watched.adapters),
        Page("/officer", "For the officer", "officer.html.j2", watched.officer, every_s=0),
    )
    downloads = (
        Download("/export/ledger.json", "ledger.json", "application/json", watched.ledger_export),
        Download("/export/decisions.jsonl", "decisions.jsonl", "application/x-ndjson", watched.decisions_export),
    )
    actions = SiteActs(watched).actions() if allow_actions else ()
    filters = {"epsilon": epsilon_text}
    return Console("site", site.config().name, "yoriai.client.console", pages, downloads, actions, filters)
