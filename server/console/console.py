"""The console of a server, put together."""

from yoriai.console.pages import Console, Download, Page
from yoriai.server.console.acts import ServerActs
from yoriai.server.console.watched import WatchedServer
from yoriai.server.folder.server_folder import ServerFolder

_LINES = "application/x-ndjson"


def console_of(folder: ServerFolder, *, allow_actions: bool) -> Console:
    """Pages, files and, where they are allowed, actions of a server."""
    watched = WatchedServer(folder)
    pages = (
        Page("/", "Overview", "overview.html.j2", watched.overview),
        Page("/sites", "Sites", "sites.html.j2", watched.sites),
        Page("/jobs", "Jobs", "jobs.html.j2", watched.jobs),
        Page("/jobs/{run:path}", "Job", "job.html.j2", watched.job, in_menu=False),
        Page("/versions", "Versions", "versions.html.j2", watched.versions),
        Page("/versions/{run:path}", "Version", "version.html.j2", watched.version, in_menu=False),
        Page("/log", "Log", "log.html.j2", watched.log, every_s=0),
        Page("/officer", "For the officer", "officer.html.j2", watched.officer, every_s=0),
    )
    downloads = (
        Download("/export/log.jsonl", "log.jsonl", _LINES, watched.log_export),
        Download("/export/statements.json", "statements.json", "application/json", watched.statements_export),
    )
    actions = ServerActs(watched).actions() if allow_actions else ()
    return Console("server", folder.config().name, "yoriai.server.console", pages, downloads, actions)
