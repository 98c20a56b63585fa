"""Flower's real SuperNode of a site, as its keeper starts it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node import node_command, node_environment


@contextmanager
def supernode(north: SiteFolder, address: str) -> Iterator["subprocess.Popen[str]"]:
    """The site's SuperNode, with this server."""
    text = north.settings.read_text().replace('address = ""', f'address = "{address}"')
    north.settings.write_text(text)
    config = north.config()
    environment = node_environment(north, config)
    with subprocess.Popen(
        node_command(north, config), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
