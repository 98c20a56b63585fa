"""Commands of the consortium: `federation init`, `sign`, `roster`, `revoke`. Its machine needs no network.

`federation verify` is for anybody who has the federation's CA certificate.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.asking import agree, passphrase
from yoriai.errors import ConfigError
from yoriai.terminal import say, say_rows

if TYPE_CHECKING:
    from yoriai.privacy.identity.coordinator_identity import CoordinatorRequest
    from yoriai.privacy.identity.enrolment import Request
    from yoriai.privacy.identity.federation import Federation
    from yoriai.privacy.identity.membership import MembershipTerms

_console = Console()
_LONGEST_DAYS = 36_500

Folder = Annotated[Path, typer.Option("--folder", help="Folder of the consortium, as `federation init` made it.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Its first line opens the CA's key; else it is asked for.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing; the fingerprint has been compared.")]


def mount(federation: typer.Typer) -> None:
    """Add the commands to the group `federation`."""
    federation.command("init")(init)
    federation.command("sign")(sign)
    federation.command("roster")(roster)
    federation.command("revoke")(revoke)
    federation.command("verify")(verify)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make it; a new or an empty folder.")],
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")],
    valid_days: Annotated[
        int, typer.Option("--valid-days", min=1, max=_LONGEST_DAYS, help="How long the CA is valid.")
    ] = 3650,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the CA of a new federation: its key, its certificate, and the first revocation list."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from yoriai.privacy.identity.certificates import check_name, fingerprint
    from yoriai.privacy.identity.enrolment import grouped
    from yoriai.privacy.identity.federation_folder import AUTHORITY, found_federation

    check_name(name)
    secret = passphrase(passphrase_file, new=True)
    authority = found_federation(folder, name, secret, now=_now(), valid_for=timedelta(days=valid_days))
    say(f"made federation {name} in {folder}; keep it, and a backup, off the network")
    say("fingerprint of the CA:")
    say_rows(grouped(fingerprint(authority.certificate.public_bytes(Encoding.DER))))
    say(f"give {folder / AUTHORITY} to every site and to the server;")
    say("each compares this fingerprint with you, by telephone or face to face")


def sign(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="Request of a site or of the coordinator, NAME.request.")
    ],
    folder: Folder,
    weight: Annotated[
        int | None, typer.Option("--weight", help="How much the site counts, 1 to 255.", show_default="1")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Largest rank that the site trains; default: any job's.")
    ] = None,
    valid_days: Annotated[
        int, typer.Option("--valid-days", min=1, max=_LONGEST_DAYS, help="How long the certificate is valid.")
    ] = 365,
    replace: Annotated[
        bool, typer.Option("--replace", help="Revoke the certificate that the site has, and sign a new one.")
    ] = False,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a site a member, or certify the coordinator, after comparing its key's fingerprint by telephone."""
    from yoriai.privacy.identity.coordinator_identity import is_coordinator_request, read_coordinator_request
    from yoriai.privacy.identity.enrolment import read_request
    from yoriai.privacy.identity.membership import MembershipTerms
    from yoriai.system.files import read_carried

    data, valid_for = read_carried(request, "the request"), timedelta(days=valid_days)
    if is_coordinator_request(data):
        if weight is not None or rank is not None or replace:
            raise ConfigError(
                "this is a coordinator's request, which --weight, --rank and --replace do not apply to",
                remedy="leave them out; a new certificate needs no --replace",
            )
        _sign_coordinator(folder, read_coordinator_request(data), valid_for, passphrase_file, yes=yes)
    else:
        terms = MembershipTerms(1 if weight is None else weight, rank)
        _sign_site(folder, read_request(data), terms, valid_for, passphrase_file, renew=replace, yes=yes)


def roster(
    folder: Folder,
    valid_days: Annotated[
        int,
        typer.Option("--valid-days", min=1, max=_LONGEST_DAYS, help="How long roster and revocation list are valid."),
    ] = 90,
    serial: Annotated[
        int | None, typer.Option("--serial", help="Serial number, above every earlier one; default: the next.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign a new roster of all members, and a new revocation list."""
    from yoriai.privacy.identity.federation_folder import REVOCATIONS, ROSTER, unlocked

    now, valid_for = _now(), timedelta(days=valid_days)
    with unlocked(folder, passphrase(passphrase_file), now=now) as opened:
        listed = opened.federation.with_roster(opened.authority, now=now, valid_for=valid_for, serial=serial)
        opened.save(listed)
    say(f"roster {listed.number} of {listed.name}, valid until {now + valid_for:%Y-%m-%d}")
    _console.print(_members(listed), highlight=False)
    say(f"give {folder / ROSTER} and {folder / REVOCATIONS} to all sites and the server")


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the member, or of the coordinator.")],
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Revoke a member's certificate, and leave it out of the next roster; or a coordinator's keys.

    Keys that were revoked are never certified again.
    """
    from yoriai.privacy.identity.federation_folder import REVOCATIONS, look_at, unlocked

    now = _now()
    found = look_at(folder, now=now)
    coordinates = bool(found.coordinator_keys(name))
    if not coordinates:
        found.member(name)
    agree(f"Revoke {name}, for good?", yes=yes, otherwise="nothing was revoked")
    with unlocked(folder, passphrase(passphrase_file), now=now) as opened:
        step = opened.federation.without_coordinator if coordinates else opened.federation.without
        listed = step(opened.authority, name, now=now)
        opened.save(listed)
    say(f"revoked {name}; revocation list {listed.number} is {folder / REVOCATIONS}, for all")
    if coordinates:
        say("sites take nothing from it once they have installed that list: yoriai site enrol DIR --revocations FILE")
        return
    say(f"the last roster still names {name}; next: yoriai federation roster --folder {folder}")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="RUN.privacy, which comes with a privacy certificate.")],
    authority: Annotated[Path, typer.Option("--authority", help="authority.der, the federation's CA certificate.")],
    page: Annotated[Path | None, typer.Option("--page", help="The page; default: next to FILE.")] = None,
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="The newest revocation list; else a revoked key is not seen.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statement, in in-toto's shape.")] = False,
) -> None:
    """Verify a privacy certificate: who signed it, and that its page is the one that was signed. Needs no network."""
    import json

    from yoriai.privacy.documents.certificate import PAGE_END
    from yoriai.privacy.documents.signed_page import verified
    from yoriai.privacy.dp.wording import epsilon_text, terms
    from yoriai.privacy.identity.certificates import Trust
    from yoriai.system.files import read_carried

    listed = read_carried(revocations, "the revocation list") if revocations else None
    trust = Trust(read_carried(authority, "the CA's certificate"), listed, now=_now())
    shown = page or file.with_name(f"{file.stem}{PAGE_END}")
    statement = verified(read_carried(file, "the certificate"), read_carried(shown, "the certificate's page"), trust)
    if as_json:
        typer.echo(json.dumps(statement.document, indent=1))
        return
    privacy = statement.privacy
    told = f"epsilon {epsilon_text(privacy.epsilon)} {terms(privacy.unit, statement.accountant)}"
    say(f"{shown.name} is as the coordinator of {statement.federation} signed it on {statement.issued[:10]}")
    say(f"run {statement.run_id}: {told if privacy.epsilon is not None else 'no noise, no guarantee'}")
    if listed is None:
        say("note: without --revocations a key that was revoked since is not seen")


def _sign_site(
    folder: Path,
    asked: "Request",
    terms: "MembershipTerms",
    valid_for: timedelta,
    passphrase_file: Path | None,
    *,
    renew: bool,
    yes: bool,
) -> None:
    from yoriai.privacy.identity.federation_folder import certificate_file, look_at, unlocked

    terms.check(asked.name)
    now = _now()
    look_at(folder, now=now).check_request(asked, renew=renew)
    _show_terms(
        {
            "site": asked.name,
            "weight": str(terms.weight),
            "rank": "any job's" if terms.rank is None else f"at most {terms.rank}",
            "valid until": f"{now + valid_for:%Y-%m-%d}",
            "fingerprint": asked.fingerprint,
        }
    )
    agree(f"Has {asked.name} read out this fingerprint to you? Sign it?", yes=yes, otherwise="nothing was signed")
    with unlocked(folder, passphrase(passphrase_file), now=now) as opened:
        opened.save(
            opened.federation.admitted(opened.authority, asked, terms, now=now, valid_for=valid_for, renew=renew)
        )
    say(f"signed {certificate_file(folder, asked.name)}, for the site and for the server")
    say(f"next: yoriai federation roster --folder {folder}")


def _sign_coordinator(
    folder: Path, asked: "CoordinatorRequest", valid_for: timedelta, passphrase_file: Path | None, *, yes: bool
) -> None:
    from yoriai.privacy.identity.federation_folder import look_at, unlocked

    now = _now()
    look_at(folder, now=now).check_coordinator(asked)
    _show_terms(
        {
            "coordinator": asked.name,
            "valid until": f"{now + valid_for:%Y-%m-%d}",
            "fingerprint": asked.fingerprint,
        }
    )
    agree(f"Has {asked.name} read out this fingerprint to you? Sign it?", yes=yes, otherwise="nothing was signed")
    with unlocked(folder, passphrase(passphrase_file), now=now) as opened:
        written = opened.certify(asked, now=now, valid_for=valid_for)
    say(f"signed {written}, for the server")


def _show_terms(terms: Mapping[str, str]) -> None:
    """Everything that a signature would vouch for."""
    table = Table.grid(padding=(0, 2))
    for key, value in terms.items():
        table.add_row(Text(key, style="bold"), Text(value))
    _console.print(table, highlight=False)


def _members(federation: "Federation") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("site", "weight", "rank", "certificate until"):
        table.add_column(column, justify="right" if column in ("weight", "rank") else "left")
    for member in federation.members:
        rank = "any" if member.terms.rank is None else str(member.terms.rank)
        table.add_row(Text(member.name), str(member.terms.weight), rank, f"{member.enrolment.expires:%Y-%m-%d}")
    return table


def _now() -> datetime:
    return datetime.now(UTC)
