"""A listener between a site and its server who has the server's own TLS key, and so sees all that TLS protects.

python -m tests.deploy.wiretap PORT SERVER_PORT CERTIFICATE KEY CA FILE
"""

import asyncio
import contextlib
import ssl
import sys
from pathlib import Path


async def main(port: int, server_port: int, certificate: str, key: str, authority: str, file: Path) -> None:
    """Pass everything on, and write it down."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    theirs = ssl.create_default_context(cafile=authority)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while piece := await source.read(65536):
                with file.open("ab") as written:
                    written.write(piece)
                target.write(piece)
                await target.drain()
        with contextlib.suppress(OSError, ssl.SSLError):
            target.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection("127.0.0.1", server_port, ssl=theirs, server_hostname="localhost")
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, onward[1]), pass_on(onward[0], writer))

    server = await asyncio.start_server(meet, "127.0.0.1", port, ssl=ours)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6], Path(sys.argv[6])))
