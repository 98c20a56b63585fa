"""Commands that set a site up: `site init` and `site enrol`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoriai.asking import Question, number
from yoriai.errors import ConfigError
from yoriai.setup_cli import (
    Authority,
    Compared,
    Revocations,
    Roster,
    Unasked,
    asked_config,
    option_of,
    show_request,
)
from yoriai.terminal import say, say_rows

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.config import SiteConfig


def _truth(text: str) -> object:
    return {"yes": True, "y": True, "no": False, "n": False}.get(text.lower(), text)


def _path(text: str) -> str:
    """A path as it was typed counts from where the command runs; in the settings it would from the site's folder."""
    return str(Path(text).expanduser().absolute()) if text else text


def _model(text: str) -> str:
    return _path(text) if Path(text).expanduser().exists() else text


_QUESTIONS: Mapping[str, Question] = {
    "name": Question("--name", "Name of the site, as the roster will have it."),
    "records.folder": Question("--data", "Folder with train.jsonl and test.jsonl; they never leave the site.", _path),
    "base.model": Question("--base", "Base model: a packaged one's name, a hub id, a folder or a .gguf file.", _model),
    "server.address": Question("--server", "The coordinator's server as HOST:PORT; nothing: not known yet."),
    "server.proxy": Question("--proxy", "HTTP proxy on the way to it, as http://HOST:PORT; nothing: none."),
    "policy.epsilon_budget": Question(
        "--epsilon-budget", "Privacy that all jobs together may cost one record or owner.", number(float)
    ),
    "policy.delta": Question("--delta", "Largest delta that a job may use; well below 1 / records.", number(float)),
    "policy.unit": Question("--unit", "What the budget protects: record, or owner with all their records."),
    "policy.max_records": Question(
        "--max-records",
        "A round number above the records, or owners, that there will ever be; it is public.",
        number(int),
    ),
    "policy.min_sites": Question("--min-sites", "Fewest sites in a round; the others hide yours.", number(int)),
    "policy.approve": Question("--approve", "ask: you approve each job by name. auto: the policy alone decides."),
    "policy.allow_distributed_noise": Question(
        "--allow-distributed-noise", "Take part where sites share the noise, and so count on each other.", _truth
    ),
    "ledger.witness": Question("--witness", "Where each ledger's end is kept again; best on another disk.", _path),
}


def _option(key: str, *more: str) -> Any:
    return option_of(_QUESTIONS[key], *more)


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("init")(init)
    site.command("enrol")(enrol)
    site.command("uninstall")(uninstall)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the site's folder.")],
    name: Annotated[str | None, _option("name")] = None,
    data: Annotated[str | None, _option("records.folder")] = None,
    base: Annotated[str | None, _option("base.model")] = None,
    server: Annotated[str | None, _option("server.address")] = None,
    proxy: Annotated[str | None, _option("server.proxy")] = None,
    epsilon_budget: Annotated[float | None, _option("policy.epsilon_budget")] = None,
    delta: Annotated[float | None, _option("policy.delta")] = None,
    unit: Annotated[str | None, _option("policy.unit")] = None,
    max_records: Annotated[int | None, _option("policy.max_records")] = None,
    min_sites: Annotated[int | None, _option("policy.min_sites")] = None,
    approve: Annotated[str | None, _option("policy.approve")] = None,
    allow_distributed_noise: Annotated[
        bool | None, _option("policy.allow_distributed_noise", "/--no-distributed-noise")
    ] = None,
    witness: Annotated[str | None, _option("ledger.witness")] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="User of the daemon, who gets the folder. Default: yoriai-site.")
    ] = None,
    node_user: Annotated[
        str | None,
        typer.Option("--node-user", help="User of the SuperNode, who gets node/ alone. Default: yoriai-node."),
    ] = None,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="Of a folder that was moved, restored or changed: units and owners again."),
    ] = False,
    yes: Unasked = False,
) -> None:
    """Make the folder of a site: its settings, with every one explained, places for keys and ledgers, systemd units."""
    from yoriai.client.cli.next_steps import of_users, warnings
    from yoriai.client.folder.owners import give, names_of, owners_of
    from yoriai.client.folder.site_folder import SiteFolder, make_site, refuse_second
    from yoriai.client.folder.systemd import write_units

    of_policy = (epsilon_budget, delta, unit, max_records, min_sites, approve, allow_distributed_noise)
    given = (name, data, base, server, proxy, *of_policy, witness)
    answers = {
        key: _QUESTIONS[key].take(value) if isinstance(value, str) else value
        for key, value in zip(_QUESTIONS, given, strict=True)
        if value is not None
    }
    if renew:
        _renew(SiteFolder(folder), answers, user, node_user)
        return
    refuse_second(SiteFolder(folder))
    if yes and name is None:
        raise ConfigError("--yes asks nothing, and a site needs a name", remedy="add --name NAME")
    names = names_of(user, node_user)
    owners = owners_of(names, asked_for=user is not None or node_user is not None)
    config = _checked(answers) if yes else asked_config(_QUESTIONS, answers, {"name": "site"}, _checked)
    units = write_units(SiteFolder(folder), config, names)  # The settings come last: with them the site is made.
    made = make_site(folder, config)
    say(f"wrote {made.settings}, with more settings, each explained")
    if owners is not None:
        give(made, made.place(config.ledger.witness), owners)
    for line in (*of_users(made, config, names, owners, units), *warnings(made, config)):
        say(line)
    say(f"next: yoriai site enrol {folder}")


def _renew(site: "SiteFolder", answers: Mapping[str, object], user: str | None, node_user: str | None) -> None:
    from yoriai.client.cli.next_steps import of_users
    from yoriai.client.folder.moving import left_to_root, names_in, settle_again
    from yoriai.client.folder.owners import owners_of
    from yoriai.client.folder.systemd import write_units

    if answers:
        raise ConfigError(
            f"--renew takes its settings from {site.settings}",
            found=", ".join(_QUESTIONS[key].option for key in answers),
            remedy="change them there",
        )
    config, names = site.config(), names_in(site, user, node_user)
    owners = owners_of(names, asked_for=user is not None or node_user is not None)
    units = write_units(site, config, names)
    say(f"renewed {', '.join(str(unit) for unit in units)}")
    if owners is not None:
        settle_again(site, owners)
    for line in (*of_users(site, config, names, owners, units), *left_to_root(site, config, names)):
        say(line)


def enrol(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the site.")],
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="NAME.cert, as the consortium signed it.")
    ] = None,
    authority: Authority = None,
    roster: Roster = None,
    revocations: Revocations = None,
    server_ca: Annotated[
        Path | None, typer.Option("--server-ca", help="ca.crt of the coordinator: the CA of the server's TLS.")
    ] = None,
    yes: Compared = False,
) -> None:
    """Make the site's keys and its request; with files of consortium or coordinator, check and install them.

    Files that are not named stay as they are installed.
    """
    from yoriai.client.folder.owners import settle
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.privacy.identity.trust_folder import read_trust_files

    site = SiteFolder(folder)
    paths = {"certificate": certificate, "authority": authority, "roster": roster, "revocations": revocations}
    brought = read_trust_files(paths)
    site.config()  # Not a site's folder, or faults in its settings: said before anything is written.
    if server_ca is not None:
        _install_server_ca(site, server_ca, yes=yes)
    if brought:
        _install(site, brought, yes=yes)
    elif server_ca is None:
        _request(site)
    settle(site)


def uninstall(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the site.")]) -> None:
    """List what the site has left on this machine, and the commands that remove it. Removes nothing itself."""
    from yoriai.client.cli.uninstall import left_behind
    from yoriai.client.folder.site_folder import SiteFolder

    site = SiteFolder(folder.resolve())
    for line in left_behind(site, site.config()):
        say(line)


def _request(site: "SiteFolder") -> None:
    from yoriai.client.folder.site_enrolment import write_request

    request = write_request(site)
    show_request(site.request(request.name), "your", request.fingerprint)
    say(f"  yoriai site enrol {site.path} --certificate {request.name}.cert \\")
    say("    --authority authority.der --roster roster --revocations revocations.der")


def _install_server_ca(site: "SiteFolder", path: Path, *, yes: bool) -> None:
    """Install the CA of the server's TLS; another than the one that is there only once its fingerprint was compared."""
    from yoriai.asking import agree
    from yoriai.client.folder.server_ca import install_ca, read_server_ca
    from yoriai.privacy.identity.enrolment import grouped
    from yoriai.system.files import read_carried

    ca = read_server_ca(read_carried(path, "the CA of the server's certificate"), now=_now())
    say("fingerprint of the CA of the server's TLS:")
    for each in ca.fingerprints:
        say_rows(grouped(each))
    if not site.server_ca.is_file() or site.server_ca.read_bytes() != ca.data:
        agree("Has the coordinator read out this fingerprint to you?", yes=yes, otherwise="the CA was not installed")
    install_ca(site, ca)
    say(f"installed it; it holds until {ca.expires:%Y-%m-%d}")


def _install(site: "SiteFolder", brought: Mapping[str, bytes], *, yes: bool) -> None:
    from yoriai.client.folder.site_enrolment import check_trust_files
    from yoriai.privacy.identity.trust_dialogue import install_agreed, show_installed

    accepted = check_trust_files(site, brought, now=_now())
    install_agreed(site.trusted, accepted, yes=yes)
    show_installed("a member", accepted)


def _checked(settings: Mapping[str, object]) -> "SiteConfig":
    from yoriai.config import site_of

    return site_of(settings, {key: question.option for key, question in _QUESTIONS.items()})


def _now() -> datetime:
    return datetime.now(UTC)
