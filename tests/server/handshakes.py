"""A TLS handshake in memory, between a server with a certificate and a client that judges it."""

import ssl
from pathlib import Path

from yoriai.server.folder.tls import KeyPair


def handshake(pair: KeyPair, client: ssl.SSLContext, host: str, folder: Path) -> bool:
    """Whether client and server agree; whatever else goes wrong than the client's judgement is an error."""
    (folder / "pair.crt").write_bytes(pair.certificate)
    (folder / "pair.key").write_bytes(pair.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "pair.crt", folder / "pair.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True
