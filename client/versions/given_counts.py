"""The counts that a site has given, as their files: `channels/counts/<purpose>.<number>.<period>.<run>.counts`.

A pair is drawn once and its file kept, so the files are what has left, or may have. Light: no model library is loaded.
"""

from contextlib import suppress
from pathlib import Path

from yoriai.errors import IdentityError
from yoriai.privacy.statements.counts_statement import CountsStatement, unverified_counts

_FOLDER, _END = "counts", ".counts"


def counts_file(channels: Path, name: str) -> Path:
    """Where a pair lies, in the folder of all channels."""
    return channels / _FOLDER / f"{name}{_END}"


def given_counts(channels: Path) -> list[CountsStatement]:
    """Every pair that was given, the newest first; without those whose file cannot be read."""
    found = []
    for path in (channels / _FOLDER).glob(f"*{_END}"):
        with suppress(OSError, IdentityError):
            found.append((path.stat().st_mtime, path.name, unverified_counts(path.read_bytes())))
    return [statement for *_, statement in sorted(found, key=lambda one: one[:2], reverse=True)]
