"""The systemd units of a site: daemon and SuperNode as two users, each with no more rights than it needs."""

import sys
from pathlib import Path
from typing import Any

from yoriai.client.folder.owners import Names
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.config import SiteConfig
from yoriai.errors import ConfigError
from yoriai.system.files import cannot_write, write_atomically
from yoriai.system.supervisor import installed

_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


def write_units(site: SiteFolder, config: SiteConfig, names: Names) -> list[Path]:
    """Write both units and the list of their users into the site's folder, made when missing, in place of older ones.

    Returns:
        The paths: the daemon's unit, the SuperNode's, the users'.

    Raises:
        ConfigError: a path of the site cannot stand in a unit.
        StorageError: they cannot be written.
    """
    try:
        site.path.mkdir(mode=0o750, parents=True, exist_ok=True)
        site.units.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise cannot_write(site.path, error) from error
    files = {
        "site.service.j2": f"yoriai-site-{config.name}.service",
        "node.service.j2": f"yoriai-node-{config.name}.service",
        "users.sysusers.j2": f"yoriai-{config.name}.sysusers",
    }
    values, environment = _values(site, config, names), _environment()
    texts = {name: environment.get_template(template).render(values) for template, name in files.items()}
    return [write_atomically(site.units / name, text.encode(), mode=0o644) for name, text in texts.items()]


def _values(site: SiteFolder, config: SiteConfig, names: Names) -> dict[str, object]:
    folder = site.path.resolve()
    here = SiteFolder(folder)
    witness, records = here.place(config.ledger.witness), here.place(config.records.folder)
    yoriai = installed("yoriai")
    needed = (folder, witness, records, Path(yoriai), Path(sys.executable).resolve())
    at_home = any(path.is_relative_to(home) for path in needed for home in _HOMES)
    own = [folder / name for name in ("keys", "trust", "ledgers", "adapters", "jobs")]
    return {
        "name": config.name,
        "folder": str(folder),
        "cache": str(here.cache),
        "witness": str(witness),
        # A folder that the site itself lies in has its modes alone.
        "inaccessible": [str(path) for path in (*own, witness, records) if not folder.is_relative_to(path)],
        "yoriai": yoriai,
        "user": names.site,
        "group": names.group,
        "node_user": names.node,
        # Homes are hidden, unless something of the site lies in one.
        "protect_home": "read-only" if at_home else "yes",
    }


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("yoriai.client"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    made.filters.update(path=_quoted, argument=lambda text: _quoted(text).replace("$", "$$"))
    return made


def _quoted(text: str) -> str:
    """A text as one word of a unit, in which a percent sign is not the beginning of a specifier."""
    if any(ord(character) < 32 for character in text):
        raise ConfigError(
            "a path of the site has a control character", found=repr(text[:200]), remedy="name another folder"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
