"""What can be tried at a site without training: settings, records, base, room, keys, expiries, ledger, processes.

Nothing is spent or changed. Nothing about the records is sent, or shown beyond their number. The server is asked for
what it shows to everybody.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from yoriai.base_digest import difference
from yoriai.client.cli.check.check_rows import Mark, Row, looked_at, until
from yoriai.client.cli.check.check_server import server_rows
from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.site_folder import SiteFolder, is_open, same_disk
from yoriai.client.node.node import node_state
from yoriai.client.records.columns import Reading
from yoriai.client.records.fitting import is_as_said
from yoriai.client.records.records import read_site
from yoriai.client.records.units import owner_name, policy_units
from yoriai.config import SiteConfig
from yoriai.errors import DaemonError
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.identity.signing_key import read_key
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.privacy.ledger.witness import must_be_new, second_place
from yoriai.system.users import user_name

_MIB = 1024 * 1024
# A ledger is small; an adapter of 50M parameters has 200 MB.
_LEAST_ROOM, _GOOD_ROOM = 100 * _MIB, 2048 * _MIB
_EXPIRING = ("certificate", "roster", "revocation list", "server's CA", "server", "server's certificate")
_PRIVATE = ("keys", "trust", "ledgers", "adapters", "node")


@dataclass(frozen=True)
class LoadedBase:
    """What is to be known of a base that loads.

    Attributes:
        digest: as `yoriai.base_digest` has it.
        size_bytes: of its weights in memory.
        device: where it would be trained.
        free_bytes: memory of that device that was free before it was loaded.
    """

    digest: str
    size_bytes: int
    device: str
    free_bytes: int


BaseOf = Callable[[str], LoadedBase]


def check_site(
    site: SiteFolder, *, now: datetime, base_of: BaseOf | None, own: Callable[[], Iterable[Row]] | None = None
) -> Iterator[Row]:
    """Every row, in order; most checks run when their row is asked for.

    Args:
        site: with an absolute path.
        base_of: loads the base; None leaves that out.
        own: gives the rows of `own_rows`, where they are found by a process of the daemon's user; None: by this one.
    """
    settings = looked_at("settings", lambda: check_settings(site))
    yield settings
    if settings.mark == "fail":
        return
    config = site.config()
    of_server = list(server_rows(site, config.server, now))  # First, for its clock may explain the others.
    clock = next((row for row in of_server if row.what == "clock" and row.mark == "fail"), None)
    for row in own() if own is not None else own_rows(site, config, now=now, base_of=base_of):
        yield _by_clock(row, clock)
    yield looked_at("keys", lambda: check_keys(site))
    yield looked_at("users", lambda: check_users(site))
    yield from (_by_clock(row, clock) for row in of_server)
    yield looked_at("daemon", lambda: check_daemon(site))
    if config.server.address:
        yield looked_at("node", lambda: check_node(site))


def own_rows(site: SiteFolder, config: SiteConfig, *, now: datetime, base_of: BaseOf | None) -> Iterator[Row]:
    """The rows on what is the daemon's: true for the daemon only where its own user looks, in its environment."""
    yield looked_at("records", lambda: check_records(site, config))
    yield from _base_rows(config, base_of)
    yield from (looked_at(f"room for {what}", _room(what, path)) for what, path in _places(site, config).items())
    for what, look in {
        "certificate": lambda: check_certificate(site, now),
        "roster": lambda: check_roster(site, config, now),
        "revocation list": lambda: check_revocations(site, now),
        "ledger": lambda: check_ledger(site, config),
        "witness": lambda: check_witness(site, config),
    }.items():
        yield looked_at(what, look)


def _by_clock(row: Row, clock: Row | None) -> Row:
    """A cross on something that expires, where a clock that is off may be all there is to it."""
    if clock is None or row.mark != "fail" or row.what not in _EXPIRING:
        return row
    return replace(row, remedy=f"set the clock first: it is {clock.found}; then check again")


def check_settings(site: SiteFolder) -> Row:
    """site.toml parses, and goes together. It names the site, and whether the operator is asked."""
    config = site.config()
    policy = config.policy
    if policy.delta >= 1 / policy.max_records:
        found = f"policy.delta = {policy.delta:g} is not below 1 / {policy.max_records} (policy.max_records)"
        return Row("settings", "warn", found, "lower policy.delta: jobs at that delta are refused")
    return Row("settings", "ok", f"site {config.name}, jobs: {policy.approve}")


def check_records(site: SiteFolder, config: SiteConfig) -> Row:
    """The records parse, and are as the policy says in public; their numbers alone are shown. The folder is closed to
    the machine's other users."""
    folder = site.place(config.records.folder)
    records = read_site(config.name, folder, Reading.of(config.records))
    policy, owners = config.policy, policy_units(records.train, "owner")
    found = f"{len(records.train)} to train, {len(records.test)} to test"
    found += f", {owners} owners" if owners else ""
    if policy.unit == "owner" and not all(map(owner_name, records.train)):
        return Row("records", "fail", f"{found}; some without an owner", 'name owners, or set policy.unit = "record"')
    if (units := policy_units(records.train, policy.unit)) > policy.max_records:
        remedy = f"raise policy.max_records, to a round number well above {units}"
        return Row("records", "fail", f"{found}; policy.max_records = {policy.max_records} is less", remedy)
    if unlike := [record for record in records.train if not is_as_said(record, policy)]:
        remedy = "correct policy.kinds and policy.labels, or the records; jobs count such records as zero"
        place = unlike[0].place or "a record"
        return Row("records", "warn", f"{found}; {len(unlike)} not as the policy says, the first: {place}", remedy)
    if is_open(folder):
        return Row("records", "warn", f"{found}; readable to every user of this machine", f"chmod 750 {folder}")
    return Row("records", "ok", found)


def check_base(config: SiteConfig, base: LoadedBase) -> Row:
    """The base is one that the policy allows."""
    allowed = config.policy.base_digests
    if allowed and all(difference(base.digest, digest) for digest in allowed):
        found = f"digest {base.digest}, which policy.base_digests does not name"
        return Row("base", "fail", found, "correct base.model, or add the digest")
    return Row("base", "ok", f"{config.base.model}, digest {base.digest}")


def check_memory(base: LoadedBase) -> Row:
    """The base fits into what is free, twice over: training keeps what it computes on the way."""
    found = f"{base.device}: {base.free_bytes // _MIB} MiB free for a base of {base.size_bytes // _MIB} MiB"
    if base.free_bytes < base.size_bytes:
        return Row("memory", "fail", found, "free memory, or take a smaller base")
    if base.free_bytes < 2 * base.size_bytes:
        return Row("memory", "warn", found, "training may not fit; free memory, or take a smaller base")
    return Row("memory", "ok", found)


def check_room(what: str, free_bytes: int) -> Row:
    """A disk has room for what will be written to it."""
    mark: Mark = "fail" if free_bytes < _LEAST_ROOM else "warn" if free_bytes < _GOOD_ROOM else "ok"
    remedy = "" if mark == "ok" else "make room, or move the folder to another disk"
    return Row(f"room for {what}", mark, f"{free_bytes // _MIB} MiB free", remedy)


def check_keys(site: SiteFolder) -> Row:
    """Both keys are there and readable to their owners alone, and so are the folders that hold what is private."""
    missing = [path.name for path in (site.identity_key, site.node_key) if not path.exists()]
    if missing:
        return Row("keys", "fail", f"missing: {', '.join(missing)}", f"yoriai site enrol {site.path}, without files")
    read_key(site.identity_key)
    NodeKey.read(site.node_key)
    opened = [str(site.path / name) for name in _PRIVATE if (site.path / name).stat().st_mode & 0o077]
    if opened:
        return Row("keys", "fail", f"open to others: {', '.join(opened)}", f"chmod 700 {' '.join(opened)}")
    return Row("keys", "ok", "both there, for their owners alone")


def check_users(site: SiteFolder) -> Row:
    """The SuperNode's folder belongs to another user than the site's, who can pass through to the daemon's socket."""
    own, node = site.path.stat(), site.node.stat()
    if node.st_uid in (own.st_uid, 0):
        remedy = f"give {site.node} to a user of its own, as `site init` says"
        return Row("users", "warn", "daemon and SuperNode belong to one user, who could read records", remedy)
    if not own.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
        return Row("users", "fail", "the SuperNode's user cannot pass to the daemon's socket", f"chmod 750 {site.path}")
    strangers = [str(p) for p in (site.identity_key, site.ledgers, site.trusted.path) if _owner(p) != own.st_uid]
    if strangers:
        found, remedy = ", ".join(strangers), f"as root: chown -R {user_name(own.st_uid)} {' '.join(strangers)}"
        return Row("users", "fail", f"not the site's own: {found}", remedy)
    return Row("users", "ok", f"daemon: {user_name(own.st_uid)}, SuperNode: {user_name(node.st_uid)}")


def check_certificate(site: SiteFolder, now: datetime) -> Row:
    """The site's certificate is the CA's, for this site's key, and lasts."""
    site.identity()
    expires = site.trusted.enrolment(now).expires
    return until("certificate", expires, now, f"yoriai site enrol {site.path}, and take the request along")


def check_roster(site: SiteFolder, config: SiteConfig, now: datetime) -> Row:
    """The roster is the CA's, names the site with its certificate, and lasts."""
    trusted = site.trusted
    roster = trusted.installed_roster(now)
    Directory(roster, trusted.trust(now)).check(roster.position(config.name), trusted.enrolment(now).certificate)
    return until("roster", roster.expires, now, "fetch a newer roster from the consortium")


def check_revocations(site: SiteFolder, now: datetime) -> Row:
    """The revocation list is the CA's, and lasts."""
    if not site.trusted.revocations.is_file():
        return Row("revocation list", "warn", "there is none", "fetch revocations.der from the consortium")
    expires = site.trusted.revocations_expire(now)
    return until("revocation list", expires, now, "fetch a newer one from the consortium")


def check_ledger(site: SiteFolder, config: SiteConfig) -> Row:
    """The ledger's rows are whole, reach as far as its witness remembers, and there is budget left."""
    path = site.ledgers / f"{config.records.dataset}.sqlite"
    witness = second_place(site.place(config.ledger.witness) / path.name)
    if not path.exists():
        must_be_new(path, witness)
        return Row("ledger", "ok", "none yet; the daemon makes it")
    with Ledger.existing(path, witness=witness) as ledger:
        policy = ledger.policies()[-1].policy
        total = policy.epsilon_budget
        left = max(0.0, total - ledger.promised())
    if objection := _unlike(config, policy):
        remedy = f"correct site.toml, or record the raise: yoriai site budget {site.path} --raise-to EPSILON"
        return Row("ledger", "fail", objection, remedy)
    if left <= 0.0:
        return Row(
            "ledger", "warn", f"epsilon 0 of {total:g} is left", f"`yoriai site budget {site.path}` shows what took it"
        )
    return Row("ledger", "ok", f"epsilon {epsilon_text(left)} of {total:g} is left")


def _unlike(config: SiteConfig, policy: Policy) -> str:
    """Why the daemon would not start on a ledger with this policy; empty if it would."""
    wanted = config.policy
    if wanted.unit != policy.unit:
        return f"it counts per {policy.unit}, and policy.unit is {wanted.unit}"
    if wanted.epsilon_budget > policy.epsilon_budget:
        return f"policy.epsilon_budget is {wanted.epsilon_budget:g}, and the ledger has {policy.epsilon_budget:g}"
    if wanted.delta > policy.delta:
        return f"policy.delta is {wanted.delta:g}, and the ledger has {policy.delta:g}"
    return ""


def check_witness(site: SiteFolder, config: SiteConfig) -> Row:
    """The ledgers' ends are kept on another disk."""
    place = site.place(config.ledger.witness)
    if same_disk(place, site.ledgers):
        return Row("witness", "warn", f"{place} is on the disk of the ledgers", "set ledger.witness to another disk")
    return Row("witness", "ok", f"{place}, on another disk")


def check_daemon(site: SiteFolder) -> Row:
    """The daemon answers, and has not failed."""
    client = DaemonClient(socket_in(site.path))
    try:
        state = str(client.health()["state"])
    except DaemonError as error:
        return Row("daemon", "warn", error.what, error.remedy)
    if state == "failed":
        return Row("daemon", "fail", "it has failed", "its log says why")
    return Row("daemon", "ok", state)


def check_node(site: SiteFolder) -> Row:
    """The SuperNode runs."""
    node = node_state(site.path)
    if node["reachable"] is None:
        return Row("node", "warn", str(node["reason"]), "check it as root")
    if not node["reachable"]:
        return Row("node", "warn", "it is not running", f"yoriai site start {site.path}, or its unit")
    if node["accepted"] is False:
        return Row("node", "fail", f"the server refuses it: {node['server_says']}", "ask the coordinator, and the CA")
    if node["waits"]:
        return Row("node", "fail", "it is down until the site's daemon is ready", "mend the daemon: its log says why")
    if not node["running"]:
        return Row("node", "fail", f"it ended {node['restarts'] + 1} times", f"see {site.node / 'supernode.log'}")
    return Row("node", "ok", f"running since {node['since']}, restarts: {node['restarts']}")


def _base_rows(config: SiteConfig, base_of: BaseOf | None) -> Iterator[Row]:
    if base_of is None:
        return
    loaded: list[LoadedBase] = []

    def look() -> Row:
        loaded.append(base_of(config.base.model))
        return check_base(config, loaded[0])

    yield looked_at("base", look)
    yield from (check_memory(base) for base in loaded)


def _places(site: SiteFolder, config: SiteConfig) -> dict[str, Path]:
    return {"ledgers": site.ledgers, "witness": site.place(config.ledger.witness), "adapters": site.adapters}


def _room(what: str, path: Path) -> Callable[[], Row]:
    def look() -> Row:
        if not os.access(path, os.W_OK | os.X_OK):
            name, owner = user_name(os.geteuid()), user_name(_owner(path))
            return Row(
                f"room for {what}",
                "fail",
                f"{name} cannot write {path}, which is {owner}'s",
                f"chown -R {name}: {path}",
            )
        return check_room(what, shutil.disk_usage(path).free)

    return look


def _owner(path: Path) -> int:
    return os.stat(path).st_uid
