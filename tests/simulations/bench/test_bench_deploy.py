"""The benchmark of a deployment: its pure parts, and a small one from nothing to its figures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.commands import yoriai
from yoriai import wire
from yoriai.cli import command
from yoriai.config import JobConfig
from yoriai.errors import ConfigError, StorageError
from yoriai.privacy.dp.accounting import cost
from yoriai.privacy.dp.events import SampledGaussian
from yoriai.simulations.bench.deploy import figures
from yoriai.simulations.bench.deploy.daemons import SharedCosting, stage_of
from yoriai.simulations.bench.deploy.plan import DeployPlan, job_for, save_base, shape_for
from yoriai.simulations.bench.deploy.usage import Process, Usage, below, cpu_by_kind, kind_of, parse_stat
from yoriai.simulations.deployment import processes


def _stage(stage: str, round_number: int, seconds: float, at: str) -> dict[str, Any]:
    sizes = {"asked": 4, "answered": 3, "bytes_down": 40, "bytes_up": 80}
    return {
        "at": f"1970-01-01T00:{at}Z",
        "event": "stage",
        "stage": stage,
        "round": round_number,
        "seconds": seconds,
    } | sizes


LOG = [
    {"at": "1970-01-01T00:00:07.500Z", "event": "started"},
    _stage("offer", 1, 12.0, "00:20.000"),
    _stage("advertise", 1, 5.0, "00:25.000"),
    _stage("mask", 1, 7.0, "00:32.000"),
    {"at": "1970-01-01T00:00:33.000Z", "event": "round", "round": 1, "seconds": 13.0},
    _stage("mask", 2, 9.0, "00:41.000"),
    {"at": "1970-01-01T00:00:42.000Z", "event": "round", "round": 2, "seconds": 9.5},
    _stage("deliver", 2, 6.0, "00:48.000"),
]


def test_seconds_before_round_1_run_from_the_submission_to_the_answered_offer() -> None:
    found = figures.of_job(LOG, begun=2.5)
    assert found["seconds_to_coordinator"] == 5.0
    assert found["seconds_before_round_1"] == 17.5


def test_offer_and_delivery_belong_to_no_round() -> None:
    first, second = figures.of_job(LOG, begun=0.0)["rounds"]
    assert (first["seconds"], first["exchanges"], first["exchange_seconds"]) == (13.0, 2, 12.0)
    assert (second["seconds"], second["exchanges"], second["exchange_seconds"]) == (9.5, 1, 9.0)


def test_stages_stand_in_the_order_of_a_job_with_their_bytes_a_site() -> None:
    found = figures.of_job(LOG, begun=0.0)
    assert list(found["stages"]) == ["offer", "advertise", "mask", "deliver"]
    mask = found["stages"]["mask"]
    assert mask == {
        "exchanges": 2, "mean_seconds": 8.0, "most_seconds": 9.0, "bytes_up_a_site": 20.0, "bytes_down_a_site": 10.0
    }  # fmt: skip
    assert (found["exchanges"], found["missing"], found["bytes_up_a_site"]) == (5, 5, 100.0)


def test_the_floor_is_the_median_empty_exchange_times_the_exchanges_of_the_job() -> None:
    assert figures.of_empty([6.0, 50.0, 7.0], 5) == {
        "seconds": [6.0, 50.0, 7.0],
        "median_seconds": 7.0,
        "floor_seconds": 35.0,
    }


def test_a_site_s_work_is_told_apart_by_stage() -> None:
    said = [("mask", 1.0), ("offer", 4.0), ("mask", 2.0)]
    worked = [{"event": "worked", "stage": stage, "seconds": seconds} for stage, seconds in said]
    assert figures.of_work([*worked, {"event": "loaded"}]) == {
        "offer": {"mean_seconds": 4.0, "most_seconds": 4.0},
        "mask": {"mean_seconds": 1.5, "most_seconds": 2.0},
    }


@pytest.mark.parametrize("params", [1, 1_000, 20_000, 1_000_000, 50_000_000])
def test_an_adapter_has_as_many_parameters_as_asked_for_and_few_more(params: int) -> None:
    shape = shape_for(params)
    assert params <= shape.params <= params + 64 * shape.hidden
    assert shape.rank <= shape.hidden // 2 or shape.rank == 1
    assert shape.hidden % 32 == 0


def test_the_first_adapter_of_the_job_has_the_reckoned_size(tmp_path: Path) -> None:
    from yoriai.client.session.prepare import prepare
    from yoriai.strategies.adapter import AdapterState

    shape = shape_for(5_000)
    job = job_for(DeployPlan(3, 5_000, 1, "local"), save_base(tmp_path / "base", shape.hidden), shape.rank)
    assert AdapterState.from_bytes(prepare(job).adapter).size_bytes == 4 * shape.params


@pytest.mark.parametrize(("noise", "fewest"), [("local", 40), ("distributed", 50)])
def test_distributed_noise_does_without_no_site(noise: str, fewest: int) -> None:
    job: JobConfig = job_for(DeployPlan(50, 1, 3, noise), Path("/base"), 1)
    assert job.federation.min_sites == fewest


def test_every_message_of_a_site_has_a_stage_of_the_coordinators_log() -> None:
    headers = [
        {"kind": "job_offer"}, {"kind": "window_request"}, {"kind": "secure_stage", "stage": "share"},
        {"kind": "train_request"}, {"kind": "delivery"},
    ]  # fmt: skip
    assert [stage_of(header) for header in headers] == ["offer", "advertise", "share", "mask", wire.DELIVERY_STAGE]


def test_what_sites_of_one_process_add_up_together_is_what_each_would() -> None:
    asked = [(SampledGaussian(0.5, 2.0), 3), SampledGaussian(0.5, 4.0)]
    assert SharedCosting()(asked, 1e-5, "rdp") == cost(asked, 1e-5, "rdp")


def test_a_process_is_known_by_its_command_line() -> None:
    assert kind_of("/v/bin/python /v/bin/flower-superexec --appio-api-address 127.0.0.1:1") == "executor"
    assert kind_of("/v/bin/python -P /t/client/node/executor.py --runtime 127.0.0.1:1") == "executor of a site"
    assert kind_of("/v/bin/python /v/bin/yoriai site start /t/s --only node") == "keeper of a SuperNode"
    assert kind_of("nginx: worker process") == "nginx"
    assert kind_of("bash") == "other"


def test_own_and_ended_children_s_seconds_are_read_from_the_kernel() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    parent, rss_bytes, cpu_s, reaped_s = parse_stat(Path("/proc/self/stat").read_text())
    assert parent == os.getppid()
    assert rss_bytes > 10_000_000
    assert abs(cpu_s - sum(os.times()[:2])) < 0.1
    assert abs(reaped_s - sum(os.times()[2:4])) < 0.1
    assert reaped_s > 0.25


def _tree() -> dict[int, Process]:
    rows = [
        (2, 1, "keeper of a SuperNode", 1.0, 0.0), (3, 2, "SuperNode", 2.0, 0.0), (4, 3, "other", 4.0, 8.0),
        (5, 4, "executor of a site", 16.0, 0.0), (6, 1, "SuperLink", 32.0, 0.0), (7, 6, "executor", 64.0, 128.0),
        (8, 7, "ServerApp", 256.0, 0.0), (9, 0, "other", 512.0, 0.0),
    ]  # fmt: skip
    return {pid: Process(pid, parent, kind, 0, cpu_s, reaped_s) for pid, parent, kind, cpu_s, reaped_s in rows}


def test_what_stands_below_a_process_is_found_at_any_depth() -> None:
    assert {process.pid for process in below(2, _tree())} == {3, 4, 5}


def test_an_app_s_seconds_count_once_whether_it_has_ended_or_not() -> None:
    tree = [process for process in _tree().values() if process.pid != 9]
    living = cpu_by_kind(tree, alive={process.pid for process in tree})
    assert (living["executor of a site"], living["ServerApp"], living["executor"]) == (16.0, 384.0, 64.0)
    assert cpu_by_kind(tree, alive={2, 3, 4, 6, 7})["ServerApp"] == 128.0


def test_usage_sees_a_process_that_was_started_below_this_one() -> None:
    with Usage() as seen:
        line = [sys.executable, "-c", "held = b'x' * 60_000_000\nimport time; time.sleep(2)", "flwr-serverapp"]
        subprocess.run(line, check=True)
    assert seen.kinds["ServerApp"].most == 1
    assert seen.kinds["ServerApp"].peak_bytes > 60_000_000


def test_without_nginx_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    done = yoriai("bench", "deploy", "--folder", tmp_path / "d")
    assert done.code == ConfigError.exit_code
    assert "apt-get install -y --no-install-recommends nginx-light" in done.screen


def test_a_machine_without_memory_left_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.check_memory()
    monkeypatch.setattr(processes, "_LEAST_LEFT_BYTES", 2**60)
    with pytest.raises(StorageError, match="runs out of memory"):
        processes.check_memory()


def test_other_lines_in_a_log_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event": "worked", "seconds": 1}\nTraceback\n[1]\n{"half": ')
    assert processes.events_in(log) == [{"event": "worked", "seconds": 1}]


@pytest.mark.deploy
@pytest.mark.deploy_full
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_small_deployment_carries_every_figure(noise: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--sites", "2", "--params", "2000", "--rounds", "1", "--noise", noise, "--json", str(file)]
    result = CliRunner().invoke(command(), ["bench", "deploy", *options])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    job = found["job"]
    assert job["missing"] == 0
    assert [one["round"] for one in job["rounds"]] == [1]
    assert list(job["stages"]) == ["offer", *wire.WINDOW_STAGES, *wire.SLOT_STAGES, wire.DELIVERY_STAGE]
    assert list(found["site_work"]) == list(job["stages"])
    # What goes through nginx is Yoriai's bytes and what Flower wraps around them.
    for way in ("bytes_up", "bytes_down"):
        assert found["through_nginx"][way] > job[f"{way}_a_site"] > 0
    assert found["empty_exchange"]["floor_seconds"] > 0
    assert found["idle_a_site_and_hour"]["requests"] < 600  # A question was kept for 20 s, or this is 1,200 and more.
    assert {"SuperLink", "ServerApp", "SuperNode", "executor of a site", "daemon", "nginx"} <= set(
        found["memory"]["kinds"]
    )
    assert all(found["cpu"]["seconds"][kind] > 0 for kind in ("SuperLink", "ServerApp", "executor of a site", "daemon"))
