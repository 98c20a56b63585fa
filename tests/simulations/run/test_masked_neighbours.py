"""Whole masked jobs, from offer to receipt, with one site's records changed: its answers stay alike in all but noise.

`tests/client/session/test_neighbours.py` has the hostile conversations; here are the messages that only an honest run
reaches.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.simulations.villages import NAMES, RUN, Village
from tests.world import job_settings, save_tiny_base
from yoriai import wire
from yoriai.client.records.records import Record, SiteRecords
from yoriai.config import JobConfig, override
from yoriai.simulations.engines.in_process import InProcessTransport

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

USUAL = tuple(Record(prompt=f"order {n}", response=("cabin", "engine", "pump")[n % 3]) for n in range(8))
NEIGHBOURS = {
    "one more": (*USUAL, Record(prompt="order 9", response="pump")),
    "misfits": (*USUAL, Record(prompt="x" * 600, response="B24"), Record(text="order 9")),
    "none": (),
}
MODES: dict[str, dict[str, Any]] = {
    "local": {},
    "distributed": {"privacy.noise": "distributed", "privacy.clip_norm": 0.05, "federation.min_sites": 3},
}
# What no two runs have in common, whatever the records are: keys, masks, signatures, noise and what comes of it.
FRESH = ("payload", "ledger_head", "adapter_digest")


def alike(reply: wire.Message) -> dict[str, Any]:
    """What two answers must have in common: all fields, and of those that are fresh in each run their lengths."""
    fields = {name: getattr(reply, name) for name in type(reply).model_fields}
    return {"kind": reply.kind, **{name: len(v) if name in FRESH else v for name, v in fields.items()}}


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_masked_job_tells_of_no_record_in_anything_but_its_noise(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, said = save_tiny_base(tmp_path / "base"), dict[str, list[dict[str, Any]]]()
    labels = {"task.kind": "classify", "task.labels": ("cabin", "engine", "pump"), "federation.rounds": 2}
    job = override(JobConfig(name="tiny"), job_settings(base, **{**labels, **MODES[mode]}))
    for name, records in {"usual": USUAL, **NEIGHBOURS}.items():
        with ExitStack() as closing:
            (tmp_path / name).mkdir()
            village = Village(tmp_path / name, base, closing, allow_distributed_noise=mode == "distributed")
            monkeypatch.setattr(village.sites["north"], "_records", SiteRecords("north", records, ()))
            heard = said.setdefault(name, [])

            def listen(_: str, replies: Mapping[str, bytes], heard: list[dict[str, Any]] = heard) -> None:
                if "north" in replies:
                    heard.append(alike(wire.decode(replies["north"])))

            def approve(absent: Mapping[str, str], village: Village = village) -> None:
                for site in absent:
                    village.books[site].decide(village.books[site].find(RUN), "approved", by="hana")

            doors = {site: village.sites[site].handle for site in NAMES}
            transport = InProcessTransport(doors, on_replies=listen)
            run = village.coordinator(job, tmp_path / name / "run", transport)
            assert run.run(village.bench.initial_adapter(job), on_offer=approve).next_round == 2
            assert [charge.released for charge in village.ledgers["north"].charges()] == [True, True]
    kinds = [answer["kind"] for answer in said["usual"]]
    assert (kinds[:2], kinds[-1], kinds.count("secure_reply")) == (["refusal", "acceptance"], "receipt", 10)
    for name in NEIGHBOURS:
        assert said[name] == said["usual"], name
