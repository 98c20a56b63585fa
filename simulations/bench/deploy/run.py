"""One measurement, from nothing to its figures."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yoriai.client.session.prepare import prepare
from yoriai.client.site.calibration import calibrated_for
from yoriai.errors import RoundError
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.jobs.submitting import submit
from yoriai.simulations.bench.deploy import daemons, empty, figures
from yoriai.simulations.bench.deploy.plan import DeployPlan, job_for, save_base, shape_for, write_records
from yoriai.simulations.bench.deploy.usage import SITE_KINDS, Totals, Usage
from yoriai.simulations.deployment.folders import Deployment, make_deployment
from yoriai.simulations.deployment.processes import (
    check_memory,
    daemon_logs,
    events_in,
    follow,
    nginx_binary,
    running,
    traffic_file,
)
from yoriai.simulations.experiment.machine import machine, versions

_POLL_S = 1.0
_LONGEST_EMPTY_S = 3600.0
_IDLE_S = 60.0

Say = Callable[[str], None]


def bench_deploy(asked: DeployPlan, folder: Path, say: Say) -> dict[str, Any]:
    """Measure one job, then Flower's part of an exchange.

    Args:
        folder: new or empty; its path must be short, for sockets lie in it.
        say: told how far it is.

    Returns:
        What was asked, machine and versions, and the figures; seconds, bytes and MiB.

    Raises:
        ConfigError: nginx is not installed.
        RoundError: the job did not end well.
        DaemonError, ServerError: something did not start.
        StorageError: the machine's memory runs out.
    """
    nginx_binary()
    load = os.getloadavg()[0]
    shape = shape_for(asked.params)
    base = save_base(folder / "base", shape.hidden)
    say(f"making the folders of {asked.sites} sites; {shape.params:,} parameters at rank {shape.rank}")
    records = {name: write_records(folder / "records", name) for name in asked.names}
    deployment = make_deployment(folder, "bench", records, _policy(asked, base))
    hosted = [[site] for site in deployment.sites] if asked.apart else [deployment.sites]
    commands = [[sys.executable, "-m", daemons.__name__, *(str(site.path) for site in each)] for each in hosted]
    with Usage() as usage, running(folder, deployment, say, daemons=commands):
        say(f"measuring {_IDLE_S:.0f} s without a job")
        quiet = _idle(folder, asked.sites)
        config = job_for(asked, base, shape.rank)
        job = submit(deployment.server.path, prepare(config), calibrated_for)
        started, idle, begun = usage.totals(), traffic(folder), time.time()
        follow(job, say)
        seconds = time.time() - begun
        ended, carried = usage.totals(), traffic(folder)
        say("measuring empty exchanges")
        empties = _empty(deployment, folder)
    events = events_in(job.log_file)
    return {
        "schema": 1,
        "asked": {
            "sites": asked.sites, "params": shape.params, "rank": shape.rank, "rounds": asked.rounds,
            "noise": asked.noise, "window": config.secure_aggregation.window, "daemons_apart": asked.apart,
        },
        "machine": machine(),
        "versions": versions(),
        "load_before": load,
        "job": {"seconds": seconds, **figures.of_job(events, begun)},
        "empty_exchange": figures.of_empty(empties, len(figures.exchanges(events))),
        "site_work": figures.of_work([e for log in daemon_logs(folder) for e in events_in(log)]),
        "through_nginx": {key: (carried[key] - idle[key]) / asked.sites for key in carried},
        "idle_a_site_and_hour": quiet,
        "cpu": {**_cpu(started, ended), "a_site_and_round": _own(started, ended) / asked.sites / asked.rounds},
        "memory": _memory(usage),
    }  # fmt: skip


def _policy(asked: DeployPlan, base: Path) -> dict[str, object]:
    return {
        "base.model": str(base),
        "policy.epsilon_budget": 1000.0,
        "policy.allow_distributed_noise": asked.noise == "distributed",
    }


def traffic(folder: Path) -> dict[str, int]:
    """All requests through nginx so far, and their bytes up and down, with headers and without TLS."""
    lines = [line.split() for line in traffic_file(folder).read_text().splitlines()]
    whole = [line for line in lines if len(line) == 2]
    up, down = (sum(int(line[way]) for line in whole) for way in (0, 1))
    return {"requests": len(whole), "bytes_up": up, "bytes_down": down}


def _idle(folder: Path, sites: int) -> dict[str, float]:
    """What a site without a job sends and gets in an hour, by a minute of all of them."""
    before, began = traffic(folder), time.monotonic()
    time.sleep(_IDLE_S)
    share = 3600.0 / (time.monotonic() - began) / sites
    return {key: (value - before[key]) * share for key, value in traffic(folder).items()}


def _empty(deployment: Deployment, folder: Path) -> list[float]:
    """Seconds of empty exchanges with all sites, by a run of Flower's that is no job."""
    server = deployment.server
    FlowerControl(server.flower_home).run(empty.bundle_from(server.bundle, folder / "empty"))
    place, deadline = empty.seconds_file(server), time.monotonic() + _LONGEST_EMPTY_S
    while not place.exists():
        if time.monotonic() >= deadline:
            raise RoundError("empty messages were not answered", found=f"none after {_LONGEST_EMPTY_S:.0f} s")
        check_memory()
        time.sleep(_POLL_S)
    return [float(seconds) for seconds in json.loads(place.read_bytes())]


def _cpu(started: Totals, ended: Totals) -> dict[str, Any]:
    """Processor seconds of the job by kind of process, and what the machine was busy with beside it."""
    spent = {kind: seconds - started.by_kind.get(kind, 0.0) for kind, seconds in ended.by_kind.items()}
    busy = ended.machine_s - started.machine_s
    return {"seconds": spent, "machine_busy_seconds": busy, "others_seconds": max(0.0, busy - sum(spent.values()))}


def _own(started: Totals, ended: Totals) -> float:
    """Processor seconds of all sites' processes together."""
    return sum(ended.by_kind.get(kind, 0.0) - started.by_kind.get(kind, 0.0) for kind in SITE_KINDS)


def _memory(usage: Usage) -> dict[str, Any]:
    """Peaks of one process of each kind, of one SuperNode with all that it starts, and of everything together."""
    return {
        "kinds": {name: {"most": kind.most, "peak_mib": _mib(kind.peak_bytes)} for name, kind in usage.kinds.items()},
        "node_with_children_mib": _mib(usage.node_bytes),
        "all_mib": _mib(usage.all_bytes),
    }


def _mib(size_bytes: int) -> float:
    return round(size_bytes / 2**20, 1)
