"""The files of this machine that a base's name leads to, told without loading it."""

from pathlib import Path

from yoriai.client.base import assets


def base_files(name: str) -> tuple[Path, ...]:
    """As `load_base` reads the name, whether they are there or not; none where a hub would have to be asked."""
    if name in assets.ASSETS:
        return (assets.place_of(name),)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return (path,)
    return tuple(file for file in sorted(path.rglob("*")) if file.is_file()) if path.is_dir() else ()
