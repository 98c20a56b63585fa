"""The files for nginx, systemd and Flower that `server init` writes from server.toml. Nothing here touches a disk."""

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yoriai
from yoriai.config import ServerConfig
from yoriai.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment, Template

# What stands for itself in nginx, systemd, sysusers and TOML alike; of $ and % each has another opinion.
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._+@-]+)+")
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


def rendered(place: Path, config: ServerConfig, *, brought: bool) -> Mapping[str, str]:
    """The files by their paths in the server's folder.

    Args:
        place: the folder, absolute, where it will be used.
        config: the server's settings.
        brought: whether the public side has a certificate that the plant brought.

    Raises:
        ConfigError: a path has characters that would mean something to nginx or systemd.
    """
    command = Path(sys.executable).parent / "yoriai"
    for path in (place, command):
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise ConfigError(
                "the path of the server's folder, or of Yoriai itself, cannot stand in nginx's and systemd's files",
                found=str(path),
                expected="letters, digits and . _ + @ - between slashes",
                remedy="choose another folder",
            )
    side = "public" if brought else "server"
    values = {
        "config": config,
        "place": place,
        "yoriai": command,
        "version": yoriai.__version__,
        "authority": place / "tls" / "ca.crt",
        "certificate": place / "tls" / f"{side}.crt",
        "key": place / "tls" / f"{side}.key",
        "addresses": _addresses(config),
        "at_home": _needs(_HOMES, place),
        "in_tmp": _needs(_TEMPORARY, place),
    }
    return {path: _template(name).render(values) for path, name in _FILES.items()}


def _addresses(config: ServerConfig) -> list[str]:
    """What stands before the port in each of nginx's `listen`; nothing is every IPv4 address."""
    if config.listen:
        return [f"[{config.listen}]:" if ":" in config.listen else f"{config.listen}:"]
    return ["", "[::]:"] if any(":" in host for host in config.hosts) else [""]


_FILES: Mapping[str, str] = {
    "nginx/yoriai.conf": "nginx.conf.j2",
    "systemd/yoriai-server.service": "systemd.service.j2",
    "systemd/yoriai-server.sysusers": "sysusers.j2",
    "flower/config.toml": "flower.toml.j2",
    "bundle/pyproject.toml": "bundle.toml.j2",
}


def _needs(hidden: tuple[Path, ...], place: Path) -> bool:
    """Whether the unit would not find its folder, or Yoriai itself, if these folders were hidden from it."""
    used = (place, Path(sys.prefix), Path(sys.base_prefix))
    return any(path.is_relative_to(folder) for path in used for folder in hidden)


def _template(name: str) -> "Template":
    text = (resources.files("yoriai.server") / "templates" / name).read_text(encoding="utf-8")
    return _environment().from_string(text)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, StrictUndefined

    # The values are names, numbers and paths that were checked; nothing of them needs escaping in any of the files.
    return Environment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
