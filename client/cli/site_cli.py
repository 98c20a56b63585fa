"""Commands of a site: those of its ledger here, of folder, processes and jobs in the files beside."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.asking import agree
from yoriai.client.cli import daemon_cli, fetch_cli, jobs_cli, site_setup_cli
from yoriai.client.cli.adapter import (
    ask_cli,
    channels_cli,
    check_adapter_cli,
    distil_cli,
    evaluate_cli,
    export_cli,
    route_cli,
    serve_cli,
)
from yoriai.client.cli.check import check_cli
from yoriai.errors import ConfigError
from yoriai.terminal import say, say_while

_console = Console()


def mount(app: typer.Typer) -> typer.Typer:
    """Add the commands to the application; returns their group."""
    site = typer.Typer(help="Look after a site.", no_args_is_help=True)
    site_setup_cli.mount(site)
    fetch_cli.mount(site)
    check_cli.mount(site)
    site.command("budget")(budget)
    site.command("witness")(witness)
    site.command("approver")(approver)
    site.command("countersign")(countersign)
    daemon_cli.mount(site)
    jobs_cli.mount(site)
    channels_cli.mount(site)
    evaluate_cli.mount(site)
    ask_cli.mount(site)
    export_cli.mount(app, site)
    serve_cli.mount(site)
    route_cli.mount(site)
    distil_cli.mount(site)
    check_adapter_cli.mount(app)
    app.add_typer(site, name="site")
    return site


def budget(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of a site: the ledger of its records.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Ledger file of one data set.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of a run: all of its ledgers.")] = None,
    witness: Annotated[
        Path | None,
        typer.Option("--witness", help="Second place of the ledger's end; default: the .head file beside it."),
    ] = None,
    raise_to: Annotated[
        float | None, typer.Option("--raise-to", help="Raise the budget to this epsilon, as an entry of its own.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why it is raised; stays in the ledger.")] = "",
    countersigned: Annotated[
        Path | None, typer.Option("--countersigned", help="What the second approver has signed, where there is one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Raise it without a question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a data set's privacy budget was spent on, what is left, and how many rounds still fit."""
    if sum(place is not None for place in (folder, ledger, run)) != 1:
        raise ConfigError(
            "site budget shows one site, one ledger or one run", remedy="name DIR, --ledger FILE or --run FOLDER"
        )
    if ledger is None and witness is not None:
        raise ConfigError("--witness is of one ledger", remedy="name it with --ledger FILE")
    if run is not None and raise_to is not None:
        raise ConfigError("--raise-to is of one ledger", remedy="name a site, or --ledger FILE")
    if raise_to is None and reason:
        raise ConfigError("--reason goes with --raise-to", remedy="name both or neither")
    if raise_to is not None:
        from yoriai.client.cli.raising import raise_budget

        if folder is not None:
            raise_budget(
                *_ledger_of(folder, to_write=True),
                raise_to,
                reason,
                folder=folder,
                countersigned=countersigned,
                yes=yes,
            )
        elif ledger is not None:
            raise_budget(ledger, witness, raise_to, reason, yes=yes)
    with say_while("reading ledgers"):
        from yoriai.client.cli.budget import ledgers_of, view_of
        from yoriai.client.cli.budget_table import print_budget
        from yoriai.privacy.ledger.ledger import Ledger

        if folder is not None:
            ledger, witness = _ledger_of(folder, to_write=False)
        paths = ([ledger] if ledger else []) + (ledgers_of(run) if run else [])
        views = []
        for path in paths:
            with Ledger.existing(path, witness=witness) as opened:
                views.append(view_of(opened, path))
    if as_json:
        typer.echo(json.dumps({"schema": 1, "ledgers": [view.as_json() for view in views]}, indent=1))
        return
    for view in views:
        print_budget(view, _console)


def approver(key: Annotated[Path, typer.Argument(metavar="KEY", help="Where the private key goes.")]) -> None:
    """Make the key of a second person, who has to sign every raise of a site's budget. It is theirs alone."""
    from yoriai.privacy.identity.signing_key import SigningKey, write_key

    made = SigningKey.generate()
    write_key(key, made)
    say(f"wrote {key}; in [policy] of site.toml:")
    say(f'second_approver = "{made.public_key.public_bytes_raw().hex()}"')


def countersign(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What `site budget --raise-to` has written.")],
    key: Annotated[Path, typer.Option("--key", help="The second person's private key.")],
    yes: Annotated[bool, typer.Option("--yes", help="Sign without a question.")] = False,
) -> None:
    """Sign a raise of a site's budget, as the second person that its policy names."""
    from yoriai.client.cli.jobs_terms import printable
    from yoriai.client.offer.second_approval import read_request, sign_raise
    from yoriai.privacy.identity.signing_key import read_key
    from yoriai.system.files import PRIVATE, read_carried, write_atomically

    asked = read_request(read_carried(request, "the request"))
    say(printable(f"{asked.asked_by} asks to raise the budget of data set {asked.dataset}, at row {asked.row}"))
    say(printable(f"from epsilon {asked.epsilon_from:g} to {asked.epsilon_to:g}: {asked.reason}"))
    agree("Do you sign it?", yes=yes, otherwise="nothing was signed")
    path = write_atomically(request.with_suffix(".signed"), sign_raise(read_key(key), asked), mode=PRIVATE)
    say(f"wrote {path}")


def witness(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the site.")],
    reason: Annotated[str, typer.Option("--reason", help="How its second place was lost; stays in the ledger.")],
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; this ledger is the newest.")] = False,
) -> None:
    """Begin anew the second place of the ledger's end, which is lost while the ledger itself is whole and the newest.

    Your word that it is the newest stays in the ledger. An older copy would forget what was spent since.
    """
    from yoriai.client.cli.budget_table import last_of
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.offer.decision_log import DecisionLog
    from yoriai.privacy.ledger.ledger import Ledger
    from yoriai.system.users import operator_name

    path, place = _ledger_of(folder, to_write=True)
    with Ledger.without_witness(path, witness=place) as ledger:
        say(f"the end of {path} is to be kept in {place} again, from here on:")
        for line in last_of(ledger):
            say(f"  {line}")
        say("the site's log shows whether it went on after that; a backup that was put back is not the newest")
        agree("Is this ledger certainly the newest there is?", yes=yes, otherwise="nothing was changed")
        ledger.renew_witness(reason)
        DecisionLog(SiteFolder(folder).jobs, time.time).add("witness", by=operator_name(), reason=reason)
        say(f"begun anew, and recorded as row {ledger.head().number}")


def _ledger_of(folder: Path, *, to_write: bool) -> tuple[Path, Path]:
    """The ledger of a site's records, and its second place."""
    from yoriai.client.cli.own_ledger import check_writer, places_of
    from yoriai.client.folder.site_folder import SiteFolder

    site = SiteFolder(folder)
    places = places_of(site)
    if to_write:
        check_writer(site)
    return places
