"""What Yoriai counts on inside of Flower. Every test here is to fail under a Flower of another form."""

import inspect
import re
from importlib import import_module, metadata

import httpx
import pytest
from flwr.proto import control_pb2, fleet_pb2, runtime_pb2
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.server.superlink.fleet.vce.backend.backend import Backend
from flwr.server.superlink.linkstate import in_memory_linkstate, linkstate_factory
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import main as superlink
from flwr.superlink.cli import flower_superlink as superlink_cli
from flwr.superlink.config_loader import get_license_plugin
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

from yoriai.client.node.node_words import word_of
from yoriai.errors import ConfigError
from yoriai.flower import ENVIRONMENT
from yoriai.flower_internals import VERSION, answering_threads, check_version, supernode
from yoriai.flower_internals.straight import _PATHS
from yoriai.flower_internals.version import replace

fleet = import_module("flwr.superlink.routers.fleet.router")
runtime = import_module("flwr.supercore.routers.runtime.router")


def test_flower_is_the_version_that_yoriai_reaches_into() -> None:
    assert metadata.version("flwr") == VERSION
    check_version()


def test_another_version_is_refused_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "1.42.0")
    with pytest.raises(ConfigError, match=r"flwr 1.42.0; expected flwr 1.41.0; pip install flwr==1.41.0"):
        check_version()


def test_a_name_that_flower_has_no_longer_is_an_error_and_not_set() -> None:
    with pytest.raises(AttributeError):
        replace(start_client_internal, "no_such_name", 1)


def test_the_supernode_sleeps_where_it_is_replaced_and_uses_time_for_nothing_else() -> None:
    used = re.findall(r"\btime\.\w+\([\d.]*\)", inspect.getsource(start_client_internal))
    assert sorted(used) == ["time.sleep(0.5)", "time.sleep(0.5)", "time.sleep(3)"]


def test_the_supernode_opens_a_bundle_in_one_place_alone() -> None:
    source = inspect.getsource(start_client_internal)
    assert source.count("get_fused_config_from_fab(") == 1
    assert source.count("fab.content") == 2  # The other only where sites name entities that they trust; ours name none.
    assert "if trusted_entities:" in source


def test_the_supernode_starts_a_program_in_subprocess_isolation_alone() -> None:
    source = inspect.getsource(start_client_internal.start_client_internal)
    (before, after) = source.split("subprocess.Popen(")
    assert before.rindex("if isolation == ISOLATION_MODE_SUBPROCESS:") > before.rindex("Launch the SuperExec")
    assert "Popen" not in after + inspect.getsource(flower_supernode)


def test_the_supernode_is_let_in_and_leaves_by_the_client_that_is_replaced() -> None:
    source = inspect.getsource(fleet_http_connection.http_request_response)
    for used in ("with FleetHttpClient.from_server_address(", "client.ActivateNode,", "client.DeactivateNode("):
        assert used in source


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://server")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, text="no such key"))


def test_a_key_that_the_server_does_not_know_yet_is_shown_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supernode, "_ADMISSION_S", 0.0)
    answers: list[object] = [answered(409), answered(409), "in"]

    def activate(_: object) -> object:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    assert supernode._admitted(activate, None) == "in"
    assert word_of(capsys.readouterr().err.replace("no such key", "Failed to activate SuperNode")).accepted is False


@pytest.mark.parametrize("status", [401, 500, 503])
def test_what_no_waiting_mends_is_asked_once(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(supernode, "_ADMISSION_S", 3600.0)

    def activate(_: object) -> object:
        raise answered(status)

    with pytest.raises(httpx.HTTPStatusError):
        supernode._admitted(activate, None)


def test_the_superlink_calls_its_handlers_by_name() -> None:
    source = inspect.getsource(fleet)
    for name in ("push_messages", "push_object", "pull_messages", "deactivate_node"):
        assert f"fleet_handlers.{name}(" in source
    assert "middleware=_get_middleware()" in inspect.getsource(superlink.create_app)


def test_the_layers_that_the_short_way_leaves_out_do_nothing_for_its_requests_but_what_it_does_itself() -> None:
    layers = [each.cls.__name__ for each in superlink._get_middleware()]  # type: ignore[attr-defined]
    assert layers == [
        "ControlSensitiveResponseMiddleware",  # Of the control interface alone, as the next two.
        "BaseHTTPMiddleware",  # The translator of errors.
        "ControlAuthenticationMiddleware",
        "ControlLicenseMiddleware",
        "ProtobufTranslationMiddleware",
        "RuntimeTracingMiddleware",
        "ControlEventLogMiddleware",
        "NodeAuthMiddleware",
        "FleetEventLogMiddleware",
    ]
    assert get_license_plugin() is None
    assert 'os.getenv("FLWR_TRACING_ENABLED") != "1"' in inspect.getsource(RuntimeTracingMiddleware)
    assert not any(name.startswith("FLWR_TRACING") for name in ENVIRONMENT)
    assert "fleet_event_log_plugin" in inspect.getsource(FleetEventLogMiddleware)


def test_the_short_way_calls_what_flowers_routers_call_and_they_ask_for_no_more() -> None:
    assert "reject_incompatible=False" in inspect.getsource(fleet)
    for path in _PATHS:
        of_node = path.startswith("/v1/fleet/")
        name = path.rpartition("/")[2].replace("-", "_")
        function = getattr(fleet, f"fleet_{name}") if of_node else getattr(runtime, name)
        assert set(inspect.signature(function).parameters) == {"request", "state"} | (
            set() if of_node else {"handlers", "task"}
        )


def test_the_state_in_memory_is_flowers_own_default_and_is_made_by_the_names_that_are_replaced() -> None:
    assert "InMemoryLinkState(" in inspect.getsource(linkstate_factory.LinkStateFactory)
    assert "InMemoryObjectStore()" in inspect.getsource(object_store_factory.ObjectStoreFactory)
    assert "node_id = generate_rand_int_from_bytes(" in inspect.getsource(
        in_memory_linkstate.InMemoryLinkState.create_node
    )
    assert "default=FLWR_IN_MEMORY_DB_NAME" in inspect.getsource(inspect.getmodule(superlink_cli))


def test_the_simulation_makes_its_backend_and_its_threads_by_the_names_that_are_replaced_for_a_while() -> None:
    source = inspect.getsource(vce_api)
    assert "from .backend.raybackend import RayBackend" in source
    assert "return RayBackend(backend_config)" in source
    assert "with ThreadPoolExecutor() as executor:" in source
    assert "for _ in range(backend.num_workers)" in source
    assert Backend.__abstractmethods__ == {"build", "is_worker_idle", "process_message", "terminate"}
    own = raybackend.RayBackend, vce_api.ThreadPoolExecutor  # type: ignore[attr-defined]
    ended: list[str] = []
    with answering_threads(70, lambda: ended.append("ended")):
        backend = raybackend.RayBackend({})
        assert (backend.num_workers, vce_api.ThreadPoolExecutor()._max_workers) == (70, 70)  # type: ignore[attr-defined]
        backend.terminate()
    assert ended == ["ended"]
    assert (raybackend.RayBackend, vce_api.ThreadPoolExecutor) == own  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.PullMessagesRequest, {"node"}),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (runtime_pb2.PushAppMessagesRequest, {"messages_list", "message_object_trees"}),
        (runtime_pb2.PushAppMessagesResponse, {"objects_to_push", "session_id"}),
        (runtime_pb2.AcquireTaskRequest, {"supported_task_types"}),
        (control_pb2.StartRunRequest, {"fab", "override_config", "federation"}),
        (control_pb2.RegisterNodeRequest, {"public_key", "name"}),
    ],
)
def test_flowers_messages_have_the_fields_that_are_read_and_written(message: type, fields: set[str]) -> None:
    assert fields <= set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]
