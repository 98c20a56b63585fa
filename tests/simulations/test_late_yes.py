"""A site whose operator says yes late: while the first round is waited for, within a window of keys, or too late."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.coordinators import asked
from tests.simulations.secure_world import Dropping, World
from yoriai import wire
from yoriai.client.offer.job_book import JobBook
from yoriai.client.site.site import Site
from yoriai.client.versions.deliveries import Deliveries
from yoriai.server.round.registry import Checkpoint

LATE = "west"
THREE = {"federation.rounds": 3, "secure_aggregation.window": 8}
OTHERS = {"north", "south", "east"}


class LateYes:
    """A federation one of whose sites asks its operator, and keeps what it is told of the end."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.book = world, JobBook(folder / "jobs")
        spec = world.specs[LATE]
        config = spec.site_config()
        config = config.model_copy(update={"policy": config.policy.model_copy(update={"approve": "ask"})})
        self.ledger, identity = world.ledgers[LATE], spec.identity()
        assert identity is not None
        deliveries = Deliveries(
            config,
            session=world.session,
            ledger=self.ledger,
            identity=identity,
            book=self.book,
            folder=folder / "adapters",
            on_stored=lambda _: None,
        )
        world.sites[LATE] = Site(
            config,
            spec.records,
            session=world.session,
            ledger=self.ledger,
            identity=identity,
            book=self.book,
            deliveries=deliveries,
        )
        self.offers: list[wire.JobOffer] = []

    def approve(self) -> None:
        """The operator's yes."""
        self.book.decide(self.book.find("run-1"), "approved", by="hana")

    def state(self) -> str:
        """Of the run in the site's book; empty before the first offer."""
        entry = self.book.entry("run-1")
        return entry.state if entry else ""

    def run(self, does: Callable[[str], object] = lambda _: None, **callbacks: Callable[..., None]) -> Checkpoint:
        """The whole job, and its end; `does` is called with each stage before it."""

        class Watched(Dropping):
            def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
                does(stage)
                offers.extend(m for m in map(asked, payloads.values()) if isinstance(m, wire.JobOffer))
                return super().exchange(stage, payloads, timeout_s)

        offers = self.offers
        self.transport = Watched(self.world.sites)
        coordinator = self.world.coordinator(self.transport, delivers=True)
        return coordinator.run(self.world.session.initial_adapter(self.world.job), **callbacks)


@pytest.fixture
def late(world: Callable[..., World], tmp_path: Path) -> Callable[..., LateYes]:
    return lambda **settings: LateYes(world(**THREE, **settings), tmp_path)


def answered(checkpoint: Checkpoint) -> list[set[str]]:
    return [set(record.answered) for record in checkpoint.rounds]


def test_the_first_round_waits_for_an_operator_though_enough_sites_have_accepted(late: Callable[..., LateYes]) -> None:
    village = late(**{"deadlines.gather_s": 60.0})

    def decide(absent: Mapping[str, str]) -> None:
        if len(village.offers) > 5:
            village.approve()

    checkpoint = village.run(on_offer=decide)
    assert answered(checkpoint) == [OTHERS | {LATE}] * 3
    assert village.transport.stages.count(wire.WINDOW_STAGES[0]) == 1
    assert {offer.rounds_done for offer in village.offers} == {0}


def test_a_yes_within_a_window_ends_it_and_the_site_is_in_the_next_round(late: Callable[..., LateYes]) -> None:
    village = late(**{"deadlines.gather_s": 0.0})

    def decide(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == 1:
            village.approve()

    checkpoint = village.run(on_round=decide)
    assert answered(checkpoint) == [OTHERS, OTHERS | {LATE}, OTHERS | {LATE}]
    assert village.transport.stages.count(wire.WINDOW_STAGES[0]) == 2
    assert [offer.rounds_done for offer in village.offers] == [0, 0, 0, 0, 1]
    assert len(village.ledger.charges()) == 2
    assert len(village.world.ledgers["north"].charges()) == 3  # A window that ends early costs no round.
    assert (village.state(), village.ledger.open_plans()) == ("delivered", {})


def test_a_yes_in_the_last_round_is_told_the_end_and_holds_nothing(late: Callable[..., LateYes]) -> None:
    village = late(**{"deadlines.gather_s": 0.0})
    masked: list[str] = []

    def decide(stage: str) -> None:
        masked.extend([stage] * (stage == wire.SLOT_STAGES[0]))
        if len(masked) == 3 and village.state() == "waiting":
            village.approve()

    checkpoint = village.run(decide)
    assert answered(checkpoint) == [OTHERS] * 3
    assert (village.state(), village.ledger.open_plans(), village.ledger.charges()) == ("ended", {}, [])
    assert checkpoint.delivered[LATE] == ""


def test_a_site_that_accepted_and_is_in_no_round_is_told_the_end_and_holds_nothing(
    late: Callable[..., LateYes],
) -> None:
    village = late(**{"deadlines.gather_s": 0.0})
    held: list[int] = []

    def decide(stage: str) -> None:
        if stage == wire.WINDOW_STAGES[0] and not held:
            village.approve()
        if village.state() == "accepted":
            held.append(village.ledger.outstanding("run-1"))
            village.transport.lost[LATE] = "offer"
        if stage == wire.DELIVERY_STAGE:
            village.transport.lost.clear()

    checkpoint = village.run(decide)
    assert answered(checkpoint) == [OTHERS] * 3
    assert held[0] == 4
    assert (village.state(), village.ledger.open_plans()) == ("ended", {})


def test_a_run_that_still_waits_at_the_end_is_over_in_the_book(late: Callable[..., LateYes]) -> None:
    village = late(**{"deadlines.gather_s": 0.0})
    village.run()
    assert village.state() == "ended"
