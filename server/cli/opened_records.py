"""A server's records, opened for a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yoriai.server.jobs.recording import Records


@contextmanager
def opened_records(folder: Path) -> "Iterator[Records]":
    """The server's records. A file of root's among them would be one that the server cannot write."""
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.jobs.recording import records_of

    place = ServerFolder(folder.resolve())
    place.config()
    place.check_user()
    with records_of(place) as records:
        yield records
