"""A measurement on a screen."""

from collections.abc import Mapping
from typing import Any


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured, in words, and the figure."""
    job, empty, memory = found["job"], found["empty_exchange"], found["memory"]
    idle, through = found["idle_a_site_and_hour"], found["through_nginx"]
    each = [one["seconds"] for one in job["rounds"]]
    cpu = found["cpu"]
    return [
        ("sites, parameters", f"{found['asked']['sites']}, {found['asked']['params']:,}"),
        ("load before it", f"{found['load_before']:.1f}"),
        ("seconds until Flower had started the coordinator", f"{job['seconds_to_coordinator']:.1f}"),
        ("seconds before round 1", f"{job['seconds_before_round_1']:.0f}"),
        ("seconds a round", ", ".join(f"{seconds:.1f}" for seconds in each)),
        ("seconds of the job", f"{job['seconds']:.0f} in {job['exchanges']} exchanges"),
        ("one empty exchange, seconds", f"{empty['median_seconds']:.1f}"),
        ("of them so many, seconds", f"{empty['floor_seconds']:.0f}"),
        ("longest work of a site on one message, seconds", f"{_longest(found['site_work']):.1f}"),
        ("replies that were missing", str(job["missing"])),
        ("MB up a site, MB down", f"{job['bytes_up_a_site'] / 1e6:.2f}, {job['bytes_down_a_site'] / 1e6:.2f}"),
        ("MB up through nginx a site, MB down", _megabytes(through)),
        ("requests of a site through nginx", f"{through['requests']:.0f}"),
        ("without a job, MB up a site and hour, MB down", _megabytes(idle)),
        ("without a job, requests of a site in an hour", f"{idle['requests']:.0f}"),
        *((f"largest {kind}, MiB", f"{one['peak_mib']:.0f}") for kind, one in memory["kinds"].items()),
        ("one SuperNode with all that it starts, MiB", f"{memory['node_with_children_mib']:.0f}"),
        ("all processes together, MiB", f"{memory['all_mib']:.0f}"),
        ("processor seconds a site and round, at the site", f"{cpu['a_site_and_round']:.2f}"),
        *((f"processor seconds of {kind}", f"{seconds:.0f}") for kind, seconds in cpu["seconds"].items()),
        ("processor seconds of what else ran here", f"{cpu['others_seconds']:.0f}"),
    ]


def _megabytes(both: Mapping[str, float]) -> str:
    return f"{both['bytes_up'] / 1e6:.2f}, {both['bytes_down'] / 1e6:.2f}"


def _longest(work: Mapping[str, Mapping[str, float]]) -> float:
    return max((stage["most_seconds"] for stage in work.values()), default=0.0)
