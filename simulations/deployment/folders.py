"""Consortium, server and sites on one machine, each in a folder, made by the functions that the commands call."""

import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from yoriai.client.folder import site_enrolment as of_site
from yoriai.client.folder.server_ca import install_ca, read_server_ca
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.config import server_of, site_of
from yoriai.privacy.identity.federation_folder import (
    AUTHORITY,
    COORDINATOR,
    REVOCATIONS,
    ROSTER,
    certificate_file,
    found_federation,
    unlocked,
)
from yoriai.privacy.identity.membership import MembershipTerms
from yoriai.privacy.identity.trust_folder import read_trust_files
from yoriai.server.folder import coordinator_enrolment as of_server
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.folder.server_setup import make_server

_VALID_FOR = timedelta(days=7)
_AUTHORITY_VALID_FOR = timedelta(days=30)


@dataclass(frozen=True)
class Deployment:
    """The folders of a deployment, enrolled and ready to be started."""

    server: ServerFolder
    sites: Sequence[SiteFolder]


def make_deployment(folder: Path, name: str, sites: Mapping[str, Path], settings: Mapping[str, object]) -> Deployment:
    """Make all folders, and have the consortium sign everybody's request.

    Args:
        folder: new or empty.
        name: of the federation.
        sites: the folder of each site's records, by its name.
        settings: of every site, by dotted key.

    Raises:
        YoriaiError: as the commands.
    """
    now = datetime.now(UTC)
    port, control_port = _free_ports(2)
    ports = {"name": "office", "hosts": ["localhost"], "port": port, "control_port": control_port}
    server = make_server(folder / "server", server_of(ports, {}), None, now=now)
    common = {"server.address": f"localhost:{port}", "policy.approve": "auto", **settings}
    made = [
        make_site(folder / site, site_of({**common, "name": site, "records.folder": str(records)}, {}))
        for site, records in sites.items()
    ]
    office = _sign(folder / "consortium", name, server, made, now)
    _install(office, server, made, now)
    return Deployment(server, made)


def _sign(office: Path, name: str, server: ServerFolder, sites: Sequence[SiteFolder], now: datetime) -> Path:
    """Found a consortium that admits every site and certifies the coordinator."""
    passphrase = secrets.token_hex().encode()
    found_federation(office, name, passphrase, now=now, valid_for=_AUTHORITY_VALID_FOR)
    with unlocked(office, passphrase, now=now) as opened:
        federation = opened.federation
        for site in sites:
            request = of_site.write_request(site)
            federation = federation.admitted(
                opened.authority, request, MembershipTerms(), now=now, valid_for=_VALID_FOR
            )
        opened.save(federation.with_roster(opened.authority, now=now, valid_for=_VALID_FOR))
    with unlocked(office, passphrase, now=now) as opened:
        opened.certify(of_server.write_request(server), now=now, valid_for=_VALID_FOR)
    return office


def _install(office: Path, server: ServerFolder, sites: Sequence[SiteFolder], now: datetime) -> None:
    common = {"authority": office / AUTHORITY, "roster": office / ROSTER, "revocations": office / REVOCATIONS}
    server_ca = read_server_ca(server.public_ca.read_bytes(), now=now)
    certificates = [certificate_file(office, site.config().name) for site in sites]
    for site, certificate in zip(sites, certificates, strict=True):
        brought = read_trust_files({**common, "certificate": certificate})
        site.trusted.install(of_site.check_trust_files(site, brought, now=now))
        install_ca(site, server_ca)
    brought = read_trust_files({**common, "coordinator": office / COORDINATOR})
    members = of_server.read_members(certificates)
    server.trusted.install(of_server.check_trust_files(server, brought, members, now=now))


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    trials = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(trial.getsockname()[1]) for trial in trials]
    for trial in trials:
        trial.close()
    return ports
