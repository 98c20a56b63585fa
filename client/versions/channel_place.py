"""Where a site keeps the versions that it has pulled: one in use a channel, and the one before it.

    channels/production       -> production.7, the version in use: what `yoriai.load` and other programs are given
    channels/production.7/    what save_adapter writes, version.safetensors, the signed statements, and `previous`
    channels/production.8.version    what was delivered last, and waits to be pulled

The number is the coordinator's, signed, and only grows. A folder is written under another name, synced and renamed, and
then the link is replaced in one step: a program that opens it finds the old version or the new one, whole. Light: no
model library is loaded to look, or to go back.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yoriai.errors import ConfigError, PolicyError
from yoriai.system.files import (
    PRIVATE,
    cannot_write,
    folder_made_whole,
    locked_folder,
    make_private_folder,
    sync,
    write_atomically,
)

_PREVIOUS, _DELIVERED = "previous", ".version"


class ChannelPlace:
    """One channel of a site.

    Args:
        folder: of all channels; made when something is put into it.
        channel: its name.
    """

    def __init__(self, folder: Path, channel: str) -> None:
        self._folder, self._channel = folder, channel

    @property
    def link(self) -> Path:
        """What leads to the version in use."""
        return self._folder / self._channel

    def current(self) -> int | None:
        """The number of the version in use; None before the first."""
        return self._number_of(os.readlink(self.link)) if self.link.is_symlink() else None

    def folder_of(self, number: int) -> Path:
        """Where the version with this number lies."""
        return self._folder / f"{self._channel}.{number}"

    def check_newer(self, number: int) -> None:
        """Raise PolicyError if the channel has held a later version: somebody shows an old one again."""
        newest = max(self._kept(), default=0)
        if number < newest:
            raise PolicyError(
                f"this site has taken a later version of {self._channel} already",
                found=f"number {number}",
                expected=f"{newest} or more",
                remedy="have the coordinator export what it holds now; site rollback goes back to the one before, and "
                "site pull FILE --older takes an older one at your word",
            )

    def holds(self, number: int) -> bool:
        """Whether that version lies here, in use or not."""
        return self.folder_of(number).is_dir()

    def has(self, number: int, name: str, text: str) -> bool:
        """Whether the version with this number has a file of this name with this text."""
        try:
            return (self.folder_of(number) / name).read_text(encoding="utf-8") == text
        except (OSError, ValueError):
            return False

    def remove(self, number: int) -> None:
        """Remove a version that is not in use. Raises StorageError if that cannot be."""
        try:
            shutil.rmtree(self.folder_of(number))
        except OSError as error:
            raise cannot_write(self.folder_of(number), error) from error

    @contextmanager
    def draft(self, number: int) -> Iterator[Path]:
        """A folder to fill; when the block is done it is the version with this number, durably, and not in use yet.

        Raises:
            StorageError: it cannot be written.
        """
        make_private_folder(self._folder)
        with folder_made_whole(self.folder_of(number), alone=True) as part:
            yield part
            (part / _PREVIOUS).write_text("" if (before := self.current()) is None else str(before))

    def use(self, number: int, *, forget_later: bool = False) -> None:
        """Have the link lead to a version that lies here, in one step; then only it and the one before it are kept.

        Args:
            forget_later: remove all that has a higher number too, so that what comes next need only be above this one.

        Raises:
            StorageError: it cannot be written.
        """
        self._swap(number)
        kept = {number, self._previous_of(number), max(self._kept())}
        for other in set(self._kept()) - kept:
            shutil.rmtree(self.folder_of(other), ignore_errors=True)
        if forget_later:
            self._forget_above(number)

    def delivered(self) -> int | None:
        """The number of the version that was delivered last; None where none was."""
        return max(self._delivered(), default=None)

    def delivered_file(self, number: int) -> Path:
        """Where a delivered version lies."""
        return self._folder / f"{self._channel}.{number}{_DELIVERED}"

    def keep_delivered(self, number: int, data: bytes) -> None:
        """Keep what was delivered, durably, in place of what was before.

        Raises:
            StorageError: it cannot be written.
        """
        make_private_folder(self._folder)
        write_atomically(self.delivered_file(number), data, mode=PRIVATE)
        for other in set(self._delivered()) - {number}:
            self.delivered_file(other).unlink(missing_ok=True)

    def roll_back(self) -> int:
        """Go back to the version before the one in use; returns its number.

        Raises:
            ConfigError: there is none here.
            StorageError: it cannot be written.
        """
        now = self.current()
        before = None if now is None else self._previous_of(now)
        if before is None or not self.holds(before):
            raise ConfigError(
                f"{self.link} has no version before the one in use" if now is not None else f"there is no {self.link}",
                remedy="pull the version that is to be in use",
            )
        self._swap(before)
        return before

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else pulls into this site's channels, or goes back, meanwhile."""
        with locked_folder(make_private_folder(self._folder)):
            yield

    def _swap(self, number: int) -> None:
        draft = self._folder / f".{self._channel}.link"
        try:
            draft.unlink(missing_ok=True)
            draft.symlink_to(self.folder_of(number).name)
            draft.replace(self.link)
            sync(self._folder)
        except OSError as error:
            raise cannot_write(self.link, error) from error

    def _previous_of(self, number: int) -> int | None:
        try:
            text = (self.folder_of(number) / _PREVIOUS).read_text()
        except OSError:
            return None
        return int(text) if text.isdecimal() else None

    def _forget_above(self, number: int) -> None:
        for later in (kept for kept in self._kept() if kept > number):
            shutil.rmtree(self.folder_of(later), ignore_errors=True)
        for later in (kept for kept in self._delivered() if kept > number):
            self.delivered_file(later).unlink(missing_ok=True)

    def _delivered(self) -> list[int]:
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        stems = [name.removesuffix(_DELIVERED) for name in names if name.endswith(_DELIVERED)]
        return [number for stem in stems if (number := self._number_of(stem)) is not None]

    def _kept(self) -> list[int]:
        names = self._folder.iterdir() if self._folder.is_dir() else ()
        return [number for path in names if (number := self._number_of(path.name)) is not None]

    def _number_of(self, name: str) -> int | None:
        found = re.fullmatch(rf"{re.escape(self._channel)}\.([0-9]{{1,16}})", name)
        return int(found[1]) if found else None
