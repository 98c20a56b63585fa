"""One process that runs llama.cpp's own server on loopback for the process that started it, and ends with it.

A process of its own, because llama.cpp ends the whole process on a file that it cannot make sense of, and because what
it takes of memory is then its alone.
"""

import json
import os
import sys


def main() -> None:
    """Load what standard input's first line asks for, write the address, and serve until standard input ends."""
    import xllamacpp

    asked = json.loads(sys.stdin.readline())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked["model"]
    if asked["adapter"]:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["adapter"], 1.0)]
    parameters.n_ctx = asked["context_tokens"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = asked["threads"]
    parameters.api_keys = [asked["key"]]
    parameters.n_parallel, parameters.n_threads_http = 1, 2
    parameters.warmup = False
    parameters.n_gpu_layers = 0
    server = xllamacpp.Server(parameters)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # Its own threads would take their time.


if __name__ == "__main__":
    main()
