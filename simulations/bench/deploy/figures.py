"""From the coordinator's and the daemons' logs to seconds and bytes. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import mean, median
from typing import Any

from yoriai.wire import DELIVERY_STAGE, SLOT_STAGES, WINDOW_STAGES

# The event in a daemon's log that tells how long its site worked on a message.
WORKED = "worked"

Event = Mapping[str, Any]
_ORDER = ("offer", *WINDOW_STAGES, *SLOT_STAGES, DELIVERY_STAGE)


def exchanges(events: Sequence[Event]) -> list[Event]:
    """The exchanges of a job, in order."""
    return [event for event in events if event["event"] == "stage"]


def of_job(events: Sequence[Event], begun: float) -> dict[str, Any]:
    """Seconds and bytes of a job from the coordinator's log.

    Args:
        begun: when the job was submitted, seconds since the epoch.

    Returns:
        `seconds_to_coordinator`, from the submission until Flower had started the coordinator;
        `seconds_before_round_1`, until the offer was answered; `rounds` and `stages`; bytes of Yoriai's own messages a
        site.
    """
    asked = exchanges(events)
    started = next(event for event in events if event["event"] == "started")
    offered = [event for event in asked if event["stage"] == "offer"]
    sites = max((int(event["asked"]) for event in asked), default=1)
    return {
        "seconds_to_coordinator": _at(started) - begun,
        "seconds_before_round_1": _at(offered[0]) - begun,
        "rounds": [_round(event, asked) for event in events if event["event"] == "round"],
        "stages": {stage: _stage([e for e in asked if e["stage"] == stage]) for stage in _named(asked)},
        "exchanges": len(asked),
        "missing": sum(int(event["asked"]) - int(event["answered"]) for event in asked),
        "bytes_up_a_site": sum(int(event["bytes_up"]) for event in asked) / sites,
        "bytes_down_a_site": sum(int(event["bytes_down"]) for event in asked) / sites,
    }


def of_empty(seconds: Sequence[float], job_exchanges: int) -> dict[str, Any]:
    """What Flower by itself takes for as many exchanges as the job had."""
    each = median(seconds)
    return {"seconds": list(seconds), "median_seconds": each, "floor_seconds": each * job_exchanges}


def of_work(events: Sequence[Event]) -> dict[str, dict[str, float]]:
    """How long the sites themselves worked on a message, by stage, from the logs of the daemons."""
    by_stage: dict[str, list[float]] = {}
    for event in (event for event in events if event["event"] == WORKED):
        by_stage.setdefault(str(event["stage"]), []).append(float(event["seconds"]))
    found = {stage: by_stage[stage] for stage in _ORDER if stage in by_stage}
    return {stage: {"mean_seconds": mean(each), "most_seconds": max(each)} for stage, each in found.items()}


def _round(event: Event, asked: Sequence[Event]) -> dict[str, Any]:
    """One round: its wall seconds, and those of its exchanges; the rest is the coordinator's own work and storing."""
    own = [e for e in asked if e["round"] == event["round"] and e["stage"] not in ("offer", DELIVERY_STAGE)]
    return {
        "round": event["round"],
        "seconds": event["seconds"],
        "exchanges": len(own),
        "exchange_seconds": sum(float(e["seconds"]) for e in own),
    }


def _stage(asked: Sequence[Event]) -> dict[str, float]:
    seconds, answered = [float(event["seconds"]) for event in asked], sum(int(event["asked"]) for event in asked)
    return {
        "exchanges": len(asked),
        "mean_seconds": mean(seconds),
        "most_seconds": max(seconds),
        "bytes_up_a_site": sum(int(event["bytes_up"]) for event in asked) / answered,
        "bytes_down_a_site": sum(int(event["bytes_down"]) for event in asked) / answered,
    }


def _named(asked: Sequence[Event]) -> list[str]:
    """The stages that took place, in the order of a job."""
    found = {str(event["stage"]) for event in asked}
    return [stage for stage in _ORDER if stage in found] + sorted(found - set(_ORDER))


def _at(event: Event) -> float:
    return datetime.fromisoformat(str(event["at"])).timestamp()
