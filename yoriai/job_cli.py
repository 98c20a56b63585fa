"""The commands of `yoriai job`: a job on a server, from prepare and submit to its end.

`prepare` needs the base model and no server; the others work in the folder of a server, on its machine.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yoriai.errors import ConfigError
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from yoriai.config import JobConfig
    from yoriai.prepared_job import PreparedJob
    from yoriai.server.jobs.job_store import JobStore

_console = Console()

Server = Annotated[Path, typer.Option("--server", metavar="DIR", help="Folder of the server.")]
Run = Annotated[str, typer.Argument(metavar="[RUN]", help="The job's run, or how it begins; default: the last one.")]


def mount(job: typer.Typer) -> None:
    """Add the commands to the group `job`."""
    job.command("prepare")(prepare)
    job.command("assessment")(assessment)
    job.command("submit")(submit)
    job.command("status")(status)
    job.command("list")(list_jobs)
    job.command("resume")(resume)
    job.command("end")(end)
    job.command("cancel")(cancel)


def prepare(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write it; default: beside the job file.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="The version that it goes on from: file of `server export-version`.")
    ] = None,
) -> None:
    """Make a job complete, on a machine that has the base model: one file to take to the server."""
    from yoriai import wire
    from yoriai.system.files import write_atomically

    path = out or job.with_suffix(".prepared")
    prepared = _prepared(job, start)
    write_atomically(path, wire.encode(prepared.as_message()))
    say(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB; base model {prepared.base_digest[:16]}…")
    if prepared.job.privacy.noise == "distributed":
        say(f"noise is shared, and sized for what `job init --sites N --records R` writes: {_sized_for(prepared.job)}")
    say(f"next, at the server: yoriai job submit {path.name} --server DIR")


def assessment(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it; default: JOB.assessment.md beside the job file.")
    ] = None,
) -> None:
    """Write the form of an impact assessment (GDPR, article 35): what the job says, and blanks for each site."""
    from yoriai.config import load_job
    from yoriai.privacy.documents.impact_assessment import assessment as form
    from yoriai.system.files import write_new

    path = out or job.with_suffix(".assessment.md")
    try:
        write_new(path, form(load_job(job)).encode())
    except FileExistsError:
        raise ConfigError(f"{path} exists", remedy="name another file: what was answered there would be lost") from None
    say(f"wrote {path}; what stands there as […] is for each site to answer")


def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="File of `job prepare`, or JOB.toml if the base is here.")],
    server: Server,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a job into a server's queue. The sites see it once the server runs, and its turn has come."""
    from yoriai.client.site.calibration import calibrated_for
    from yoriai.server.jobs.submitting import submit as put

    _store(server, to_write=True)
    stored = put(server, _prepared(job), calibrated_for)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "run": stored.run_id}))
        return
    say(f"submitted {stored.run_id}")
    say(f"a site whose policy is to ask waits for its operator: yoriai site approve DIR {stored.run_id}")
    say(f"next: yoriai job status --server {server}")


def status(
    server: Server, run: Run = "", as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show where a job stands: its round and stage, the sites that are missing, and its last error."""
    from yoriai.server.cli.status_table import print_job
    from yoriai.server.service.status import job_view

    view = job_view(_store(server).find(run))
    if as_json:
        typer.echo(json.dumps({"schema": 1, **view}, indent=1))
        return
    print_job(view, _console)


def list_jobs(
    server: Server,
    every: Annotated[bool, typer.Option("--all", help="Also cancelled and ended ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List a server's jobs in the order of submission: run, phase and rounds, and the last error."""
    from yoriai.server.service.status import job_view

    states = _store(server).states()
    kept = [job for job, state in states.items() if every or as_json or state.phase not in ("cancelled", "ended")]
    views = [job_view(job) for job in kept]
    if as_json:
        typer.echo(json.dumps({"schema": 1, "jobs": views}, indent=1))
        return
    for view in views:
        error = f"; {view['error']}" if view["error"] else ""
        say(f"{view['run']}  {view['phase']}, {view['rounds_done']} of {view['rounds']} rounds{error}")
    if len(kept) < len(states):
        say(f"{len(states) - len(kept)} cancelled or ended: --all shows them")
    if not states:
        say("no job was submitted yet")


def resume(server: Server, run: Run = "") -> None:
    """Have a job that failed or was cancelled go on from its last stored round; one that ended delivers the rest."""
    from yoriai.server.jobs import job_orders

    say(job_orders.resume(_store(server, to_write=True).find(run), server))


def end(server: Server, run: Run = "") -> None:
    """End a job early, for good: after the round at work, its sites get the adapter of the last stored round."""
    from yoriai.server.jobs import job_orders

    say(job_orders.end(_store(server, to_write=True).find(run)))


def cancel(server: Server, run: Run = "") -> None:
    """Stop a job at once. Its stored rounds stay, the sites hold its budget, and `job resume` goes on from there."""
    from yoriai.server.jobs import job_orders

    say(job_orders.cancel(_store(server, to_write=True).find(run)))


def _prepared(path: Path, start: Path | None = None) -> "PreparedJob":
    """The job of a file: one that was prepared, or a job file that is prepared now."""
    from yoriai.prepared_job import check_complete, not_in_deployments, read_prepared
    from yoriai.system.files import read_carried

    if path.suffix != ".toml":
        if start is not None:
            raise ConfigError("--from is for a job file", found=path.name, expected="JOB.toml")
        return read_prepared(read_carried(path, "the prepared job", at_most_mib=2048))
    from yoriai.config import load_job

    job = load_job(path)
    check_complete(job)  # Before libraries and base are loaded, which takes long.
    for line in not_in_deployments(job):
        say(line)
    with say_while("loading the base model, for the job's first adapter"):
        from yoriai.client.session.continuing import read_start
        from yoriai.client.session.prepare import prepare as made

        version = read_start(read_carried(start, "the version", at_most_mib=2048)) if start else None
        return made(job, version)


def _sized_for(job: "JobConfig") -> str:
    whose = "records" if job.privacy.unit == "record" else "owners"
    each = job.training.records_per_weight
    return f"{job.federation.min_sites} sites or more in each round, of about {each} {whose} each"


def _store(server: Path, *, to_write: bool = False) -> "JobStore":
    """The server's jobs. A file of root's among them would be one that the server cannot read."""
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.jobs.job_store import JobStore

    folder = ServerFolder(server)
    folder.config()
    if to_write:
        folder.check_user()
    return JobStore(folder.jobs)
