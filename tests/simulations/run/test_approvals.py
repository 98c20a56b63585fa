"""A whole federation in process whose operators are asked: it waits, goes on, and ends with an adapter at each site."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.simulations.villages import KNOWN, NAMES, RUN, Village
from tests.world import job_settings, save_tiny_base
from yoriai import wire
from yoriai.client.cli.jobs_terms import early_end
from yoriai.client.versions.adapter_place import VERSION, folder_of, read_evaluation
from yoriai.config import JobConfig, override
from yoriai.privacy.statements.delivery import read_delivery
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.experiment.experiment import noise_multiplier
from yoriai.strategies.adapter import AdapterState

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)


@pytest.fixture
def village(tmp_path: Path) -> Iterator[Village]:
    with ExitStack() as closing:
        yield Village(tmp_path, save_tiny_base(tmp_path / "base"), closing)


def test_two_crashes_that_spend_every_round_end_the_job_at_real_sites_with_the_adapter_of_its_one_stored_round(
    village: Village, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites, ledgers, books and windows of keys are the real ones; the coordinator is killed before it stores."""
    labels = {"task.kind": "classify", "task.labels": ("cabin", "engine", "pump"), "federation.min_sites": 2}
    job = override(JobConfig(name="tiny"), job_settings(tmp_path / "base", **labels))
    start, save = village.bench.initial_adapter(job), Registry.save

    def approve(_: Mapping[str, str]) -> None:
        for name in ("east", "north"):
            village.books[name].decide(village.books[name].find(RUN), "approved", by="hana")

    def kill(registry: Registry, checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == 2:
            raise KeyboardInterrupt
        save(registry, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "save", kill)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                village.coordinator(job, tmp_path / "run").run(start, on_offer=approve)
    result = village.coordinator(job, tmp_path / "run").run(start)
    assert (result.next_round, "have used every round" in result.ended_early) == (1, True)
    assert result.delivered == {**dict.fromkeys(("east", "north"), result.adapter.digest()), "south": ""}
    for name in ("east", "north"):
        folder = folder_of(tmp_path / name / "adapters", RUN, result.adapter.digest())
        assert AdapterState.from_bytes((folder / VERSION).read_bytes()) == result.adapter
        assert village.ledgers[name].open_plans() == {}
        entry = village.books[name].find(RUN)
        assert (entry.state, early_end(entry)) == ("delivered", "ended early after 1 of 3 rounds")


def test_the_operator_is_shown_the_signed_rosters_ranks_and_not_the_offers(village: Village, tmp_path: Path) -> None:
    labels = {"task.kind": "classify", "task.labels": ("cabin", "engine", "pump")}
    job = override(JobConfig(name="tiny"), job_settings(tmp_path / "base", **labels))
    offer = wire.JobOffer(
        run_id=RUN,
        job=job.model_dump(mode="json", by_alias=True),
        roster=wire.Roster(serial=9, weights=dict.fromkeys(NAMES, 1), ranks={"south": 1}),
        signed_roster=village.roster.file.decode(),
        base_digest=village.bench.base.digest,
        noise_multiplier=noise_multiplier(job, 0, len(NAMES)),
        payload=village.bench.initial_adapter(job).to_bytes(),
    )
    reply = wire.decode(village.sites["north"].handle(KNOWN.sealed("north", offer)))
    assert isinstance(reply, wire.Refusal)
    assert reply.waiting, reply.reason
    terms = village.books["north"].entries()[0].terms
    signed = village.roster.directory.roster
    assert (terms.ranks, terms.roster_serial, terms.roster_digest) == ({}, 1, signed.digest.hex())


def test_a_secure_job_waits_for_operators_goes_on_and_leaves_the_adapter_at_every_site_that_took_part(
    village: Village, tmp_path: Path
) -> None:
    labels = {"task.kind": "classify", "task.labels": ("cabin", "engine", "pump"), "federation.rounds": 2}
    job = override(JobConfig(name="tiny"), job_settings(tmp_path / "base", **labels))
    seen: list[dict[str, str]] = []

    def approve_one_after_the_other(absent: Mapping[str, str]) -> None:
        seen.append(dict(absent))
        if len(seen) in (2, 3):
            book = village.books[NAMES[len(seen) - 2]]
            book.decide(book.find(RUN), "approved", by="hana")

    start = village.bench.initial_adapter(job)
    result = village.coordinator(job, tmp_path / "run").run(start, on_offer=approve_one_after_the_other)
    waits = f"waits for its operator: yoriai site approve DIR {RUN}"
    assert seen[:4] == [dict.fromkeys(NAMES, waits)] * 2 + [{"north": waits, "south": waits}, {"south": waits}]
    assert [record.answered for record in result.rounds] == [("east", "north")] * 2
    roster_digest = village.roster.directory.roster.digest.hex()
    assert {record.roster_digest for record in result.rounds} == {roster_digest}

    assert result.delivered == {**dict.fromkeys(("east", "north"), result.adapter.digest()), "south": ""}
    for measuring in village.measuring:
        measuring.work_off()
    for name in ("east", "north"):
        folder = folder_of(tmp_path / name / "adapters", RUN, result.adapter.digest())
        assert AdapterState.from_bytes((folder / VERSION).read_bytes()) == result.adapter
        evaluation = read_evaluation(folder)
        assert evaluation is not None
        assert evaluation["before"]["records"] == evaluation["after"]["records"] == 12
        assert village.ledgers[name].outstanding(RUN) == 0
        assert village.books[name].find(RUN).state == "delivered"
        statement = read_delivery((folder / "statement").read_bytes(), KNOWN.key.public_key)
        assert (statement.rounds, statement.roster_digest) == (2, roster_digest)
    assert list((tmp_path / "south" / "adapters").iterdir()) == []
    assert village.ledgers["south"].charges() == []
