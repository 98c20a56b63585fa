"""Which of a site's adapters is meant: the version in use, a channel's, or a delivered one by its name."""

from pathlib import Path

from yoriai.errors import ConfigError

_DEFAULT = "production"


def chosen_adapter(channels: Path, adapters: Path, name: str | None) -> Path:
    """The folder of an adapter.

    Args:
        channels: the site's folder of channels.
        adapters: the site's folder of delivered adapters.
        name: a channel, or how a delivered adapter's name begins; None for what production leads to, else what was
            delivered last.

    Raises:
        ConfigError: there is none, or the name fits several.
    """
    delivered = (
        [path for path in adapters.iterdir() if path.is_dir() and path.name[0] != "."] if adapters.is_dir() else []
    )
    if name is None:
        if (link := channels / _DEFAULT).exists():
            return link.resolve()
        found = sorted(delivered, key=lambda path: path.stat().st_mtime_ns)[-1:]
    elif (channels / name).is_symlink() and (channels / name).exists():
        return (channels / name).resolve()
    else:
        found = [path for path in delivered if path.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        "there is no such adapter at this site" if not found else "several adapters at this site begin so",
        found=", ".join(sorted(path.name for path in delivered)[:5]) or "none",
        expected="a channel, or a delivered adapter",
        remedy="pull a version, or name an adapter with --adapter",
    )
