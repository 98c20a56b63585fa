"""Flower's own simulation runtime as the engine.

The same sites and coordinator, with Flower's messages between them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Context
from flwr.simulation import run_simulation

from yoriai.client.app import Door, client_app
from yoriai.client.base_model import choose_device, load_base
from yoriai.client.workbench import Workbench
from yoriai.server.app import server_app
from yoriai.server.coordinator import Transport
from yoriai.simulations.engines import SiteSpec

# One worker process, so that one base model in memory serves every site of it.
_BACKEND = {"client_resources": {"num_cpus": os.cpu_count() or 1, "num_gpus": 0.0}}
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class _Doors:
    """Builds a site where a message for it arrives, and keeps it there; travels to Flower's worker by pickle."""

    specs: Mapping[str, SiteSpec]
    base_digest: str

    def __call__(self, context: Context) -> Door:
        name = sorted(self.specs)[int(context.node_config["partition-id"])]
        if name not in _BUILT:
            spec = self.specs[name]
            if not _WORKBENCHES:
                device = choose_device(spec.job.speed.device)
                base = load_base(spec.job.base.model, device=device, expected_digest=self.base_digest)
                _WORKBENCHES.append(Workbench(base, spec.job.speed))
            _BUILT[name] = spec.build(_WORKBENCHES[0])
        return _BUILT[name]


# Of the worker process: what its sites share, and the sites.
_WORKBENCHES: list[Workbench] = []
_BUILT: dict[str, Door] = {}


def run_in_flower(specs: Mapping[str, SiteSpec], base_digest: str, run: Callable[[Transport], None]) -> None:
    """Run a coordinator over Flower's simulation runtime; `run` gets the Transport, and its error comes out here."""
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    failure: list[BaseException] = []

    def guarded(transport: Transport) -> None:
        try:
            run(transport)
        except BaseException as error:
            failure.append(error)
            raise

    try:
        run_simulation(
            server_app=server_app(guarded, expected_nodes=len(specs)),
            client_app=client_app(_Doors(dict(specs), base_digest)),
            num_supernodes=len(specs),
            backend_config=_BACKEND,  # type: ignore[arg-type]
        )
    except BaseException:
        if failure:
            raise failure[0] from None
        raise
