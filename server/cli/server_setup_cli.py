"""Commands that set the coordinator's machine up: `server init` and `server enrol`."""

from collections.abc import Mapping, Sequence
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
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.config import ServerConfig
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.folder.server_setup import PublicSide


def _hosts(text: str) -> object:
    return text.replace(",", " ").split()


_QUESTIONS: Mapping[str, Question] = {
    "name": Question("--name", "Name of the coordinator, as the consortium will sign it."),
    "hosts": Question("--host", "Names and IP addresses by which sites reach this machine, with commas.", _hosts),
    "port": Question("--port", "Port for the sites; the only one that others can reach.", number(int)),
    "control_port": Question("--control-port", "Port of Flower's SuperLink, on 127.0.0.1 only.", number(int)),
    "user": Question("--user", "System user that the server runs as."),
}
# What a question's check fills in for what was not asked yet.
_STAND_INS: Mapping[str, object] = {"name": "server", "hosts": ["localhost"]}


def _option(key: str) -> Any:
    return option_of(_QUESTIONS[key])


def mount(server: typer.Typer) -> None:
    """Add the commands to the group `server`."""
    server.command("init")(init)
    server.command("enrol")(enrol)
    server.command("uninstall")(uninstall)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the server's folder.")],
    name: Annotated[str | None, _option("name")] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Name or IP address by which sites reach it; may be repeated.")
    ] = None,
    port: Annotated[int | None, _option("port")] = None,
    control_port: Annotated[int | None, _option("control_port")] = None,
    user: Annotated[str | None, _option("user")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="The plant's own certificate for the public side, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its key, PEM, mode 0600, without a passphrase.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The CA that sites know it by, PEM.")] = None,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="Of a folder that is there: a new certificate, and all files anew."),
    ] = False,
    yes: Unasked = False,
) -> None:
    """Make the folder of a server: settings, keys, certificate, and the files for nginx, systemd and Flower."""
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.folder.server_setup import make_server, refuse_second

    given = {"name": name, "hosts": host, "port": port, "control_port": control_port, "user": user}
    answers: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    public = _public_side(certificate, key, ca)
    if renew:
        _renew(ServerFolder(folder), answers, public)
        return
    refuse_second(ServerFolder(folder))
    missing = [_QUESTIONS[key].option for key in ("name", "hosts") if key not in answers]
    if yes and missing:
        raise ConfigError(
            "--yes asks nothing, and a server needs a name and a host", remedy=f"add {', '.join(missing)}"
        )
    config = _checked(answers) if yes else asked_config(_QUESTIONS, answers, _STAND_INS, _checked)
    made = make_server(folder, config, public, now=_now())
    say(f"wrote {made.settings}, with more settings, each explained")
    _say_of_system(made, config)
    say(f"next: yoriai server enrol {folder}")


def enrol(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")],
    coordinator: Annotated[
        Path | None, typer.Option("--coordinator", help="coordinator.cert, as the consortium signed it.")
    ] = None,
    authority: Authority = None,
    roster: Roster = None,
    revocations: Revocations = None,
    member: Annotated[
        list[Path] | None,
        typer.Option("--member", help="NAME.cert of a member, or a folder of them; may be repeated."),
    ] = None,
    yes: Compared = False,
) -> None:
    """Make the coordinator's request; with files of the consortium, check and install them.

    Files that are not named stay as they are installed.
    """
    from yoriai.privacy.identity.trust_folder import read_trust_files
    from yoriai.server.folder.coordinator_enrolment import read_members
    from yoriai.server.folder.server_folder import ServerFolder

    server = ServerFolder(folder)
    paths = {"coordinator": coordinator, "authority": authority, "roster": roster, "revocations": revocations}
    brought, members = read_trust_files(paths), read_members(member or [])
    if brought or members:
        _install(server, brought, members, yes=yes)
    else:
        _request(server)


def uninstall(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]) -> None:
    """List what the server has left on this machine, and the commands that remove it. Removes nothing itself."""
    from yoriai.server.cli.uninstall import left_behind
    from yoriai.server.folder.server_folder import ServerFolder

    server = ServerFolder(folder.resolve())
    for line in left_behind(server, server.config()):
        say(line)


def _renew(server: "ServerFolder", answers: Mapping[str, object], public: "PublicSide | None") -> None:
    from yoriai.server.folder.server_setup import renew

    if answers:
        raise ConfigError(
            f"--renew takes its settings from {server.settings}",
            found=", ".join(_QUESTIONS[key].option for key in answers),
            remedy="change them there",
        )
    issued = renew(server, public, now=_now())
    config = server.config()
    say(
        f"renewed {server.tls_certificate}, valid until {issued.expires:%Y-%m-%d}, and the files from {server.settings}"
    )
    _hand_over(server, config)
    say("next, as root: nginx -t && systemctl reload nginx")
    say(f"  systemctl daemon-reload && systemctl restart {server.unit.name}")


def _request(server: "ServerFolder") -> None:
    from yoriai.server.folder.coordinator_enrolment import write_request

    request = write_request(server)
    _hand_over(server, server.config())
    show_request(server.request(request.name), "the coordinator's", request.fingerprint)
    say(f"  yoriai server enrol {server.path} --coordinator coordinator.cert \\")
    say("    --authority authority.der --roster roster --revocations revocations.der \\")
    say("    --member members/")


def _install(server: "ServerFolder", brought: Mapping[str, bytes], members: Sequence[bytes], *, yes: bool) -> None:
    from yoriai.privacy.identity.trust_dialogue import install_agreed, show_installed
    from yoriai.server.folder.coordinator_enrolment import check_trust_files, missing_members
    from yoriai.server.jobs.recording import may_connect, note_members

    now = _now()
    accepted, before = check_trust_files(server, brought, members, now=now), may_connect(server, now)
    install_agreed(server.trusted, accepted, yes=yes)
    config = server.config()
    note_members(server, before, now)
    _hand_over(server, config)
    show_installed("the coordinator", accepted)
    missing = missing_members(server, now=now)
    if missing:
        say(f"missing: the certificate file of {', '.join(missing)};")
        say("  until it is here the site cannot connect")
    say("a server that runs takes the members up by itself")
    say(f"give to every site: {server.public_ca}, and the address {_address(config)}")


def _public_side(certificate: Path | None, key: Path | None, ca: Path | None) -> "PublicSide | None":
    from yoriai.server.folder.server_setup import PublicSide

    if certificate is None and key is None and ca is None:
        return None
    if certificate is None or key is None or ca is None:
        raise ConfigError("--certificate, --key and --ca go together", remedy="name all three, or none")
    return PublicSide.read(certificate, key, ca)


def _checked(settings: Mapping[str, object]) -> "ServerConfig":
    from yoriai.config import server_of

    return server_of(settings, {key: question.option for key, question in _QUESTIONS.items()})


def _hand_over(server: "ServerFolder", config: "ServerConfig") -> None:
    """Leave nothing in the folder that its user could not read; say so where only root can see to that."""
    if not server.hand_over():
        place, users = server.path.absolute(), server.sysusers.absolute()
        say(f"note: {place} is to belong to the user {config.user}; as root:")
        say(f"  install -m 644 {users} /etc/sysusers.d/yoriai-server.conf && systemd-sysusers")
        say(f"  chown -R {config.user}: {place}")


def _say_of_system(server: "ServerFolder", config: "ServerConfig") -> None:
    """What root has to do on the machine, once."""
    _hand_over(server, config)
    say("then, as root, nginx of the distribution, and the service; copies, for the originals are not root's own:")
    say(f"  install -m 644 {server.nginx_site.absolute()} /etc/nginx/conf.d/ && nginx -t && systemctl reload nginx")
    say(f"  install -m 644 {server.unit.absolute()} /etc/systemd/system/")
    say(f"  systemctl daemon-reload && systemctl enable --now {server.unit.name}")


def _address(config: "ServerConfig") -> str:
    host = config.hosts[0]
    return f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"


def _now() -> datetime:
    return datetime.now(UTC)
