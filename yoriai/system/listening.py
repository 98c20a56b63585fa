"""A TCP socket of one's own to serve from, with an error that says what is in the way."""

import errno
import socket

from yoriai.errors import ConfigError


def listening_socket(address: str, port: int, *, at_once: int) -> socket.socket:
    """A socket that listens.

    Args:
        address: an IP address of this machine.
        port: 0 takes any that is free.
        at_once: connections that may wait to be taken.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken or not for this user.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((address, port))
        opened.listen(at_once)
    except OSError as error:
        opened.close()
        what = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not for this user"}.get(error.errno or 0)
        raise ConfigError(
            f"port {port} of {address} {what or 'cannot be opened'}",
            found="" if what else error.strerror or "",
            remedy="name another one with --port, or end the program that has it",
        ) from None
    return opened
