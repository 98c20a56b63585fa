"""llama.cpp's own server, in a process of its own: `python -m yoriai.client.edge.engine`.

    standard input     one line of JSON, an `Engine`; then it stays open for as long as the parent lives
    standard output    one line of JSON: {"address": URL} once it answers, or {"fault": TEXT}

A process of its own, because llama.cpp ends its process where it fails, and gives memory back for certain only so. It
ends with its parent, however that ends: the pipe is closed then. Light: no model library but llama.cpp is loaded.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Engine:
    """What one engine loads, and how it answers.

    Attributes:
        gguf: path of the base.
        adapter: path of the adapter as a GGUF file; empty for the base alone.
        name: what answers call the model; paths stay inside.
        key: what its one client has to show; it is on no command line.
        context_tokens: of one request, answer included.
        parallel: requests that are answered at once; others wait.
        threads: of computing.
    """

    gguf: str
    adapter: str
    name: str
    key: str
    context_tokens: int
    parallel: int
    threads: int

    def __repr__(self) -> str:
        return f"Engine({self.name})"

    def to_line(self) -> bytes:
        """As the process reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def serve(engine: Engine) -> object:
    """Start llama.cpp's server on a free port of loopback; it runs for as long as what is returned is kept."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = engine.gguf
    if engine.adapter:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(engine.adapter, 1.0)]
    settings.model_alias = [engine.name]
    settings.hostnames, settings.port, settings.api_keys = ["127.0.0.1"], 0, [engine.key]
    settings.n_parallel, settings.n_ctx = engine.parallel, engine.context_tokens * engine.parallel
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = engine.threads
    # Nothing but answers: no page, no slots that show others' prompts, no prompts kept in memory, no log of them.
    settings.ui = settings.endpoint_slots = settings.endpoint_props = False
    settings.cache_ram_mib, settings.verbosity = 0, -1
    return xllamacpp.Server(settings)


def main() -> None:
    """Serve until standard input ends."""
    told = os.dup(1)
    os.dup2(2, 1)  # What llama.cpp prints is not what the parent reads.
    engine = Engine(**json.loads(sys.stdin.readline()))
    try:
        server = serve(engine)
        line = {"address": server.listening_address}  # type: ignore[attr-defined]
    except Exception as error:  # It raises bare ones. Its words name files and tensors; it has seen no request yet.
        line = {"fault": str(error)[:300] or type(error).__name__}
    os.write(told, json.dumps(line).encode() + b"\n")
    if "address" in line:
        sys.stdin.read()
    os._exit(0)  # Its threads are not waited for: who asked is gone.


if __name__ == "__main__":
    main()
