"""The command `server certificate`: a version's privacy certificate, one signed page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from yoriai.server.cli.opened_records import opened_records
from yoriai.terminal import say


def mount(server: typer.Typer) -> None:
    """Add the command to the group `server`."""
    server.command("certificate")(certificate)


def certificate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")],
    name: Annotated[str, typer.Argument(metavar="VERSION", help="Digest or run of a version, or how it begins.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for page and statement; default: here.")] = Path(),
    audit: Annotated[
        Path | None, typer.Option("--audit", help="What `yoriai audit --job JOB.toml --json` has printed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Issue the privacy certificate of a version: one page for the data protection officer, signed.

    Exit code 3: an audit refutes the guarantee.
    """
    from yoriai.server.channels.version_pages import issue_certificate
    from yoriai.server.versions import catalogue
    from yoriai.system.files import read_carried

    found = read_carried(audit, "the audit") if audit else None
    with opened_records(folder) as records:
        issued = issue_certificate(records, catalogue.find(records.db, name), out, found)
    if as_json:
        told = {"run": issued.facts.run_id, "page": str(issued.page), "file": str(issued.file)}
        typer.echo(json.dumps({"schema": 1, **told, "audited": issued.audit is not None}, indent=1))
        return
    say(f"wrote {issued.page}, the page, and {issued.file}, its signature")
    say(f"{issued.facts.price}{'' if issued.audit else ' No audit is named: --audit FILE'}")
    say(f"verified by: yoriai federation verify {issued.file.name} --authority authority.der")
