"""The coordinator's commands to its SuperLink, without a process of Flower's each."""

import hashlib
from collections.abc import Mapping
from pathlib import Path


class Control:
    """A SuperLink's control interface, over which jobs are started and nodes registered.

    Every method raises httpx.HTTPError where the SuperLink cannot be reached, or refuses.

    Args:
        address: HOST:PORT.
        authority: the CA of its certificate, in PEM.
    """

    def __init__(self, address: str, authority: bytes) -> None:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        versioned = RuntimeVersionHttpInterceptor(component_name="yoriai-server")
        self._client = ControlHttpClient.from_server_address(
            address, insecure=False, root_certificates=authority, interceptors=[versioned]
        )

    def start(self, bundle: Path, settings: Mapping[str, str | int]) -> int:
        """Start a run of a bundle, which lies unpacked in a folder; the run's number."""
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        packed = build_fab_from_disk(bundle)
        fab = fab_to_proto(Fab(hashlib.sha256(packed).hexdigest(), packed, {}))
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(settings)), federation="")
        return int(self._client.StartRun(request).run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run_id))

    def register(self, name: str, key: bytes) -> int:
        """Register a node by its public key in OpenSSH's form; its number."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        request = RegisterNodeRequest(public_key=public_key(key), name=name)
        return int(self._client.RegisterNode(request).node_id)

    def unregister(self, node_id: int) -> None:
        """Take a node out."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[int, tuple[bool, str]]:
        """Registered nodes by number: whether each is connected, and since when it is or is not, as ISO 8601 writes it.

        One that was never connected has no time.
        """
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {
            int(node.node_id): (True, node.last_activated_at)
            if node.status == "online"
            else (False, node.last_deactivated_at)
            for node in found
        }


def public_key(key: bytes) -> bytes:
    """A node's public key in OpenSSH's form, as Flower writes it."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    public = load_ssh_public_key(key)
    assert isinstance(public, EllipticCurvePublicKey)
    return public_key_to_bytes(public)


def is_key_in_use(error: Exception) -> bool:
    """Whether a refusal says that a node's key is registered already."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    response = getattr(error, "response", None)
    told = FlowerError.from_json(response.text) if response is not None else None
    return told is not None and told.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE
