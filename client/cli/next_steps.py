"""What `site init` says to whoever has just made a site: how it is given to its users, and what is still amiss."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from yoriai.client.folder.owners import Names, Owners
from yoriai.client.folder.site_folder import SiteFolder, is_open, same_disk
from yoriai.config import SiteConfig


def of_users(
    site: SiteFolder, config: SiteConfig, names: Names, owners: Owners | None, units: Sequence[Path]
) -> Iterator[str]:
    """Lines on who owns the folder, or the commands that see to it, and on the units.

    Args:
        owners: those that it was given to; None: it is the caller's own.
        units: of the daemon, of the SuperNode, and the users that they want.
    """
    daemon, node, users = (quote(str(path.resolve())) for path in units)
    folder, settings, node_folder, witness = (
        quote(str(path.resolve())) for path in (site.path, site.settings, site.node, site.place(config.ledger.witness))
    )
    if owners is None:
        yield "to run daemon and SuperNode as two users, as root:"
        yield f"  systemd-sysusers {users}"
        yield f"  chown -R {names.site}: {folder} {witness} && chown -R {names.node}: {node_folder}"
        yield f"  chmod 750 {folder} && chmod 640 {settings}"
    else:
        yield f"the folder belongs to {names.site} now, and node/ in it to {names.node}"
        if not owners.can_pass:
            yield f"warning: {names.node} cannot pass to the daemon's socket yet; as root:"
            yield f"  usermod --append --groups {names.group} {names.node}"
    yield "for systemd, once the site is enrolled, as root:"
    yield f"  cp {daemon} {node} /etc/systemd/system/"
    yield f"  systemctl daemon-reload && systemctl enable --now {units[0].name} {units[1].name}"


def warnings(site: SiteFolder, config: SiteConfig) -> Iterator[str]:
    """Lines on what the operator should still see to."""
    witness, data = site.place(config.ledger.witness), site.place(config.records.folder)
    if same_disk(witness, site.path):
        yield f"warning: {witness} is on the disk of the ledgers; an old backup of both"
        yield "  would bring spent budget back unseen. Set ledger.witness to a folder on another disk"
    if is_open(data):
        yield f"warning: {data} is readable to every user of this machine; close it:"
        yield f"  chmod 750 {quote(str(data))}"
    for part in ("train", "test"):
        if not any((data / f"{part}{suffix}").is_file() for suffix in (".jsonl", ".csv")):
            yield f"note: {data / part}.jsonl is not there yet"
