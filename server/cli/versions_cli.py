"""The commands of a server's versions: `versions | show | diff | promote | rollback | schedule | gc | log` and more."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from yoriai.asking import agree
from yoriai.errors import ConfigError
from yoriai.server.cli.opened_records import opened_records as _records
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.server.versions.promoting import Promoted

_console = Console()
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
_Name = Annotated[str, typer.Argument(metavar="VERSION", help="Digest or run of a version, or how it begins.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Channel = Annotated[Literal["staging", "production"], typer.Option("--channel", help="staging or production.")]


def mount(server: typer.Typer) -> None:
    """Add the commands to the group `server`."""
    server.command("versions")(versions)
    server.command("show")(show)
    server.command("diff")(diff)
    server.command("promote")(promote)
    server.command("rollback")(rollback)
    server.command("export-version")(export_version)
    server.command("schedule")(schedule)
    server.command("gc")(gc)
    server.command("log")(log)


def versions(folder: _Folder, as_json: _Json = False) -> None:
    """List the versions, newest last, and the channels that they stand in. Finished jobs are taken in first."""
    from yoriai.server.channels.version_views import versions_view
    from yoriai.server.cli.versions_table import print_versions
    from yoriai.server.jobs.recording import take_in_all

    with _records(folder) as records:
        faults = take_in_all(records)
        view = versions_view(records.db)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **view, "faults": faults}, indent=1))
        return
    print_versions(view, _console)
    for run, why in faults.items():
        say(f"note: {run} could not become a version: {why}")


def show(folder: _Folder, name: _Name, as_json: _Json = False) -> None:
    """Show all that is known of a version. Its statement's signature and its adapter are verified."""
    from yoriai.server.channels.changing import content_of
    from yoriai.server.channels.version_views import facts_of
    from yoriai.server.cli.versions_table import print_facts
    from yoriai.server.jobs.chain import chain_of
    from yoriai.server.versions import catalogue

    with _records(folder) as records:
        version = catalogue.find(records.db, name)
        content_of(records, version)
        facts = {**facts_of(records.db, version), "chain": chain_of(records, version)}
    if as_json:
        typer.echo(json.dumps({"schema": 1, **facts}, indent=1))
        return
    print_facts(facts, _console)


def diff(
    folder: _Folder,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version, as in `server show`.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    as_json: _Json = False,
) -> None:
    """Show in which facts two versions differ."""
    from yoriai.server.channels.version_views import differences
    from yoriai.server.cli.versions_table import print_differences
    from yoriai.server.versions import catalogue

    with _records(folder) as records:
        found = differences(catalogue.find(records.db, old), catalogue.find(records.db, new))
    if as_json:
        typer.echo(json.dumps({"schema": 1, "differences": found}, indent=1))
        return
    print_differences(found, _console)


def promote(
    folder: _Folder,
    name: _Name,
    channel: _Channel = "staging",
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="What was measured of it: docs/operate/versions.md, report.json.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="What `yoriai audit --json` found for its job's settings.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Although its gate refuses it; the log keeps why.")] = False,
    why: Annotated[str, typer.Option("--why", help="Why it is to stand there all the same.")] = "",
    as_json: _Json = False,
) -> None:
    """Put a version into a channel, if it passes the gate of its job. Exit code 3: the gate refuses it."""
    from yoriai.server.channels import changing as channels
    from yoriai.server.channels.version_pages import card_faults
    from yoriai.server.versions.metrics import read_audit, read_metrics

    reason = channels.check_reason(force, why)
    measured = read_metrics(metrics) if metrics else None
    audited = read_audit(audit) if audit else None
    with _records(folder) as records:
        done = channels.promote(records, name, channel, measured, force_why=reason, audit=audited)
        faults = card_faults(records, done.version)
    _say_standing(done, as_json)
    for fault in faults:
        typer.echo(fault, err=True)


def rollback(
    folder: _Folder,
    channel: _Channel = "production",
    why: Annotated[str, typer.Option("--why", help="Why; stays in the log.")] = "",
    as_json: _Json = False,
) -> None:
    """Put back the version that a channel held before the one in force was promoted."""
    from yoriai.server.channels import changing as channels

    with _records(folder) as records:
        done = channels.roll_back(records, channel, why)
    _say_standing(done, as_json)


def export_version(
    folder: _Folder,
    channel: _Channel = "production",
    out: Annotated[Path | None, typer.Option("--out", help="Where to write it; default: here, named by run.")] = None,
    as_json: _Json = False,
) -> None:
    """Write what a channel holds to one signed file, which sites take by `site pull`."""
    from yoriai import wire
    from yoriai.server.channels.changing import exported
    from yoriai.server.channels.version_pages import write_card
    from yoriai.system.files import write_atomically

    with _records(folder) as records:
        version, file = exported(records, channel)
        path = write_atomically(out or Path(f"{version.run}.{channel}.version"), wire.encode(file))
        card = write_card(records, version, path.with_suffix(".md"))
    if as_json:
        found = {"run": version.run, "adapter": version.digest, "file": str(path), "card": str(card)}
        typer.echo(json.dumps({"schema": 1, **found}))
        return
    say(f"wrote {card}, its model card")
    say(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB: {version.run} ({version.digest[:12]})")
    say(f"next, at each site: yoriai site pull DIR {path.name} --channel {channel}")


def schedule(
    folder: _Folder,
    now: Annotated[bool, typer.Option("--now", help="Ask the sites for another check at once.")] = False,
    as_json: _Json = False,
) -> None:
    """Show the checks of the version in production, and whether it drifts. `check_days` in server.toml sets the period.

    Each site evaluates it on its newest test records, and tells what its policy allows.
    """
    from yoriai.server.channels import schedule as checks
    from yoriai.server.channels.version_views import checks_view
    from yoriai.server.cli.versions_table import print_checks
    from yoriai.server.versions.verdicts import checks_of

    with _records(folder) as records:
        held = checks.in_production(records)
        if held is None:
            raise ConfigError("production holds no version", remedy="yoriai server promote DIR VERSION")
        if now:
            checks.begin(records, *held)
        version, view = held[1], checks_view(checks_of(records.db, held[1].run, held[0].number))
    if as_json:
        typer.echo(json.dumps({"schema": 1, "run": version.run, **view}, indent=1))
        return
    print_checks(version.run, view, _console)


def gc(
    folder: _Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them without a question.")] = False,
    as_json: _Json = False,
) -> None:
    """Remove adapters of rounds before the last, in jobs that are over. No version loses its adapter."""
    from yoriai.server.channels.changing import past_rounds

    with _records(folder) as records:
        paths = list(past_rounds(records))
        size_bytes = sum(path.stat().st_size for path in paths)
        if paths and not as_json:
            say(f"{len(paths)} files of past rounds, {size_bytes / 1e6:.2f} MB; every version keeps its adapter")
        if paths:
            agree("Remove them?", yes=yes or as_json, otherwise="nothing was removed")
        for path in paths:
            path.unlink(missing_ok=True)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "removed": len(paths), "bytes": size_bytes}, indent=1))
        return
    say(f"removed {len(paths)} files" if paths else "there is nothing to remove")


def log(
    folder: _Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Verify every row; name the first broken one.")] = False,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="An earlier key of the server, hexadecimal; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show the server's log: who joined, refused, submitted, promoted, rolled back, delivered. Exit code 2: broken."""
    from yoriai.server.cli.versions_table import log_line
    from yoriai.server.versions.log import rows, verified_head

    with _records(folder) as records:
        if verify:
            keys = [records.key.public_key.public_bytes_raw(), *map(_key, key or [])]
            number, head = verified_head(rows(records.db), keys)
            verified = {"schema": 1, "rows": number, "head": head}
            said = f"{number} rows are whole and signed; note the last one's hash elsewhere: {head}"
            typer.echo(json.dumps(verified)) if as_json else say(said)
            return
        for row in rows(records.db):
            typer.echo(json.dumps(row.document, sort_keys=True)) if as_json else say(log_line(row))


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError("--key is no public key", expected="64 hexadecimal digits")
    return key


def _say_standing(done: "Promoted", as_json: bool) -> None:
    version, row = done.version, done.standing
    if as_json:
        values: dict[str, Any] = {"channel": row.channel, "number": row.number, "run": version.run}
        values |= {"adapter": version.digest, "gate": [str(line) for line in done.lines]}
        values["failed"] = [str(line) for line in done.lines if not line.holds]
        typer.echo(json.dumps({"schema": 1, **values}, indent=1))
        return
    for line in done.told:
        say(line)
