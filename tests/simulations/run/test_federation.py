"""A federated training from sites to outcome, with real sites on a tiny model."""

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulations.miniature import SIZES, Miniature, interrupt_after
from yoriai.errors import CheckpointError, RoundError
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.server.round.registry import Registry
from yoriai.simulations.run import simulated_federation as federations
from yoriai.simulations.run.simulated_federation import Federation

SHARED = {"privacy__noise": "distributed", "training__local_steps": 1, "training__records_per_weight": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("world"))


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def advance(self, what: str, done: int, total: int) -> None:
        pass

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_outcome_names_the_rounds_what_they_cost_and_how_long_each_site_took(world: Miniature, tmp_path: Path) -> None:
    federation = world.federation(tmp_path)
    outcome = world.run(federation)
    assert [record.answered for record in outcome.checkpoint.rounds] == [tuple(sorted(SIZES))] * 3
    assert outcome.checkpoint.adapter != world.session(federation).initial_adapter(federation.job)
    assert outcome.refused == {}
    assert set(outcome.epsilon) == set(outcome.seconds) == set(SIZES)
    for site, points in outcome.spending.items():
        assert points[-1] == (3, outcome.epsilon[site])
        assert 0 < outcome.epsilon[site] <= federation.job.privacy.epsilon
    assert all(seconds > 0 for seconds in outcome.seconds.values())


def test_a_rounds_charges_are_on_the_disk_before_its_adapter_is_stored(
    world: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = world.federation(tmp_path)
    at_each_sync: list[tuple[int, set[int]]] = []

    def look(folder: Path) -> None:
        stored, charged = Registry(folder).load(), set()
        for site in SIZES:
            with Ledger.existing(folder / "ledgers" / f"{site}.sqlite") as ledger:
                charged.add(len(ledger.charges()))
        at_each_sync.append((stored.next_round if stored else 0, charged))

    monkeypatch.setattr(federations, "sync_disk", look)
    world.run(federation)
    assert at_each_sync == [(0, {1}), (1, {2}), (2, {3})]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_resume_after_any_round_gives_the_bits_of_the_uninterrupted_run(
    optimizer: str, world: Miniature, tmp_path: Path
) -> None:
    settings: dict[str, object] = {"federation__server_optimizer": optimizer, "federation__rule": "core"}
    whole = world.run(world.federation(tmp_path / "whole", **settings)).checkpoint
    for stop_after in (1, 2):
        federation = world.federation(tmp_path / str(stop_after), **settings)
        with pytest.raises(KeyboardInterrupt):
            world.run(replace(federation, on_round=interrupt_after(stop_after)))
        resumed = world.run(federation).checkpoint
        assert resumed.adapter == whole.adapter
        assert resumed.lanes == whole.lanes
        assert [r.adapter_digest for r in resumed.rounds] == [r.adapter_digest for r in whole.rounds]


@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [({}, True), (SHARED, True), ({}, False)],
)
def test_a_run_goes_on_with_its_noise_where_it_would_be_calibrated_otherwise(
    world: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], is_kept: bool
) -> None:
    """As on another machine, or by another version. One that kept no file is told by its ledgers."""
    whole, halved = (world.federation(tmp_path / name, **settings) for name in ("whole", "halved"))
    expected = world.run(whole)
    with pytest.raises(KeyboardInterrupt):
        world.run(replace(halved, on_round=interrupt_after(1)))
    if not is_kept:
        (halved.folder / "noise.json").unlink()
    began_with = expected.noise_multiplier
    assert began_with is not None
    monkeypatch.setattr(federations, "noise_multiplier", lambda *_: began_with * (1 + 1e-9))
    ended = world.run(replace(halved, on_round=None))
    assert ended.noise_multiplier == began_with
    assert ended.checkpoint.adapter == expected.checkpoint.adapter
    assert ended.epsilon == expected.epsilon


def test_a_damaged_file_of_the_noise_ends_the_run_before_a_site_is_asked(world: Miniature, tmp_path: Path) -> None:
    federation = world.federation(tmp_path)
    (tmp_path / "noise.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"noise.json is damaged; found KeyError"):
        world.run(federation)
    assert not (tmp_path / "ledgers").exists()


def test_sites_are_asked_in_one_order_whatever_the_order_of_the_records(world: Miniature, tmp_path: Path) -> None:
    federation = world.federation(tmp_path / "1")
    turned = replace(
        federation,
        sites=tuple(reversed(federation.sites)),
        roster=federation.roster.model_copy(
            update={"weights": dict(reversed(list(federation.roster.weights.items())))}
        ),
        folder=tmp_path / "2",
    )
    assert world.run(federation).checkpoint.adapter == world.run(turned).checkpoint.adapter


def test_finished_run_starts_no_engine(world: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = world.federation(tmp_path)
    first = world.run(federation)

    def never(*_: object) -> None:
        raise AssertionError("a finished run asked for more")

    monkeypatch.setattr(federations, "_run_in_process", never)
    monkeypatch.setattr(federations, "noise_multiplier", never)
    monkeypatch.setattr(federations.Coordinator, "run", never)
    again = world.run(federation)
    assert again.checkpoint == first.checkpoint
    assert (again.epsilon, again.spending, again.refused) == (first.epsilon, first.spending, first.refused)


def test_every_ledger_is_closed_at_the_end_and_after_an_interruption(
    world: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Ledger] = []
    original = Ledger.open

    def spy(path: Path, **settings: object) -> Ledger:
        opened.append(original(path, **settings))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(Ledger, "open", spy)
    federation = world.federation(tmp_path, federation__rounds=1)
    with pytest.raises(KeyboardInterrupt):
        world.run(replace(federation, on_round=interrupt_after(1)))
    world.run(federation)
    assert len(opened) == 4 + 4  # The second time nothing is trained, only read.
    for ledger in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            ledger._store._db.execute("SELECT 1")


def _with_spent_site(federation: Federation, listener: Listener) -> Federation:
    """The same, with a site whose budget is promised to another run."""
    spec = federation.spec(next(site for site in federation.sites if site.name == "east"))
    assert spec.event is not None
    with spec.open_ledger() as ledger:
        ledger.approve("another-run", spec.event, 4)
    return replace(federation, observer=listener)


def test_site_that_refuses_is_named_once_and_the_others_go_on(world: Miniature, tmp_path: Path) -> None:
    listener = Listener()
    outcome = world.run(_with_spent_site(world.federation(tmp_path), listener))
    assert set(outcome.refused) == {"east"}
    assert [record.answered for record in outcome.checkpoint.rounds] == [("north", "south", "west")] * 3
    assert len([line for line in listener.lines if "east" in line]) == 1
    assert world.run(_with_spent_site(world.federation(tmp_path), listener)).refused == outcome.refused


def test_too_few_sites_end_the_run_before_anybody_is_charged(world: Miniature, tmp_path: Path) -> None:
    federation = _with_spent_site(world.federation(tmp_path, federation__min_sites=4), Listener())
    with pytest.raises(RoundError, match=r"round 1 has too few sites; found 3 that accepted the job \(east: "):
        world.run(federation)
    assert _charges(federation) == {"north": 0, "east": 0, "south": 0, "west": 0}


def test_folder_of_another_job_is_refused(world: Miniature, tmp_path: Path) -> None:
    world.run(world.federation(tmp_path, federation__rounds=1))
    with pytest.raises(CheckpointError, match="belongs to another job"):
        world.run(world.federation(tmp_path, federation__rounds=2))


def test_speed_settings_may_change_on_resume(world: Miniature, tmp_path: Path) -> None:
    federation = world.federation(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        world.run(replace(federation, on_round=interrupt_after(1)))
    world.run(world.federation(tmp_path, speed__physical_batch_size=3))
    stored = Registry(tmp_path).load()
    assert stored is not None
    assert stored.next_round == 3


def test_without_privacy_nothing_is_spent(world: Miniature, tmp_path: Path) -> None:
    outcome = world.run(world.federation(tmp_path, privacy__noise="none", federation__rounds=1))
    assert (outcome.epsilon, outcome.spending) == ({}, {})
    assert outcome.checkpoint.next_round == 1


def _charges(federation: Federation) -> Mapping[str, int]:
    charges = {}
    for site in federation.sites:
        path = federation.folder / "ledgers" / f"{site.name}.sqlite"
        with Ledger.existing(path) as ledger:
            charges[site.name] = len(ledger.charges())
    return charges
