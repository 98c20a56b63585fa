"""A site judges versions: what of it leaves, what it costs, and that no more leaves whatever is asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.client.conftest import LABELS, JobMaker
from tests.client.exports import KNOWN, Export, trust
from tests.client.offices import noise_for, site_records
from yoriai import wire
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.site import Site
from yoriai.client.versions.channel_inbox import ChannelInbox
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.counting import Judged, Measured, check_counts, clipped_sum, measure, noised, vote_counts
from yoriai.client.versions.judging import Judge
from yoriai.client.versions.own_checks import OwnChecks, is_worse
from yoriai.client.versions.pulling import pull
from yoriai.config import PolicySection, SiteConfig
from yoriai.errors import StorageError
from yoriai.privacy.dp.accounting import SampledGaussian, epsilon
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.statements.counts_statement import CountsStatement, read_counts
from yoriai.strategies.rule import rule_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

TESTS = tuple(Record(prompt=f"the {word} is broken", response=LABELS[n % 3]) for n, word in enumerate("abcdefgh"))


@dataclass
class Home:
    """A site with a version in use and a candidate, that may answer for some epsilon."""

    session: ModelSession
    make_job: JobMaker
    ledger: Ledger
    folder: Path
    records: list[Record] = field(default_factory=lambda: list(TESTS))
    faults: list[str] = field(default_factory=list)
    drifted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = KNOWN.identity("north", self.folder)
        self.channels = self.folder / "channels"
        self.used = Export(self.session, self.make_job())
        place = ChannelPlace(self.channels, "production")
        pull(self.used.bundle(1), place, self.session)
        self.allow(count_epsilon=0.5)

    def allow(self, **policy: float) -> None:
        """Start the site anew under another policy."""
        config = SiteConfig(name="north", policy=PolicySection(epsilon_budget=20.0, **policy))  # type: ignore[arg-type]
        self.judge = Judge(
            config,
            self.channels,
            session=self.session,
            ledger=self.ledger,
            identity=self.identity,
            records=lambda: self.records,
            on_fault=self.faults.append,
            on_drift=self.drifted.append,
        )
        self.inbox = ChannelInbox(
            "north", self.channels, base_digest=self.session.base.digest, trust=trust, judge=self.judge
        )

    def deliver(self, number: int = 2, **settings: object) -> None:
        export = Export(self.session, self.make_job(**settings), seed=1)
        message = wire.decode(export.file(promotion=export.promotion(channel="staging", number=number)))
        assert isinstance(message, wire.VersionFile)
        self.inbox.receive(message)

    def asked(self, channel: str = "staging", period: int = 0) -> wire.ChannelState:
        """Ask, and let the site do what comes after its reply."""
        place = ChannelPlace(self.channels, channel)
        number = (place.current() if period else place.delivered()) or 0
        question = wire.ChannelQuestion(run_id="run-1", channel=channel, number=number, period=period)
        state = self.inbox.answer(question)
        self.inbox.work_off()
        return state

    def counts(self, state: wire.ChannelState) -> CountsStatement:
        assert state.counts, (state.withheld, self.faults)
        return read_counts(state.counts.encode(), self.identity.key.public_key)

    def charges(self) -> list[tuple[str, bool]]:
        return [(charge.job_id, charge.released) for charge in self.ledger.charges()]


@pytest.fixture
def home(session: ModelSession, make_job: JobMaker, tmp_path: Path) -> Iterator[Home]:
    with Ledger.open(tmp_path / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
        yield Home(session, make_job, ledger, tmp_path)


# A vote.


def test_a_vote_is_two_noised_counts_that_the_site_signs_and_its_ledger_has_charged(home: Home) -> None:
    home.deliver()
    first = home.asked()
    assert (first.counts, first.withheld) == ("", "")  # It has not looked yet.
    vote = home.counts(home.asked())
    assert (vote.federation, vote.site, vote.purpose, vote.number, vote.period) == ("miyagi", "north", "vote", 2, 0)
    assert home.charges() == [("run-1/counts/vote.2.0", True)]
    assert 0 < home.ledger.spent() <= vote.epsilon == 0.5
    assert epsilon([SampledGaussian(1.0, vote.deviation)], vote.delta) <= 0.5


def test_a_vote_is_drawn_once_however_often_it_is_asked_for(home: Home) -> None:
    home.deliver()
    home.asked()
    votes = {home.asked().counts for _ in range(4)}
    assert len(votes) == 1
    assert len(home.charges()) == 1
    home.allow(count_epsilon=0.5)  # Started anew.
    assert {home.asked().counts} == votes


def test_by_default_nothing_leaves_nothing_is_charged_and_the_reason_says_which_setting(
    home: Home, session: ModelSession
) -> None:
    home.allow()
    home.deliver()
    for _ in range(2):
        state = home.asked()
        assert (state.counts, "policy.count_epsilon is 0" in state.withheld) == ("", True)
    assert home.charges() == []


def test_no_more_answers_are_given_than_the_policy_allows(home: Home) -> None:
    home.allow(count_epsilon=0.5, count_answers=1)
    for number in (2, 3):
        home.deliver(number)
        home.asked()
    assert "policy.count_answers" in home.asked().withheld
    assert home.charges() == [("run-1/counts/vote.2.0", True)]


def test_counts_that_were_drawn_stay_once_the_policy_lets_none_leave(home: Home) -> None:
    home.deliver()
    home.asked()
    home.allow()
    assert home.asked().counts == ""


def test_a_question_that_names_another_run_than_the_versions_is_charged_for_nothing(home: Home) -> None:
    home.deliver()
    for channel, number, period in (("staging", 2, 0), ("production", 1, 1)):
        question = wire.ChannelQuestion(run_id="run-9", channel=channel, number=number, period=period)
        home.inbox.answer(question)
        home.inbox.work_off()
        assert "another run" in home.inbox.answer(question).withheld
    assert home.charges() == []
    home.asked()
    assert home.counts(home.asked()).run_id == "run-1"


def test_a_number_that_a_restored_server_gives_a_second_time_has_a_vote_of_its_own(home: Home) -> None:
    for run in ("run-1", "run-2"):
        export = Export(home.session, home.make_job(), seed=len(home.charges()))
        promotion = export.promotion(channel="staging", number=2, run_id=run)
        ChannelPlace(home.channels, "staging").keep_delivered(
            2, export.file(export.version(run_id=run), promotion=promotion, run_id=run)
        )
        question = wire.ChannelQuestion(run_id=run, channel="staging", number=2)
        home.inbox.answer(question)
        home.inbox.work_off()
        assert home.counts(home.inbox.answer(question)).run_id == run
    assert home.charges() == [(f"{run}/counts/vote.2.0", True) for run in ("run-1", "run-2")]


def test_what_the_budget_does_not_bear_is_withheld(home: Home, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "small.sqlite", dataset="north", epsilon_budget=1.0, delta=1e-5) as home.ledger:
        home.allow(count_epsilon=2.0)
        home.deliver()
        home.asked()
        assert home.asked().withheld == "the budget does not bear it"
        assert home.charges() == []


@pytest.mark.parametrize("records", [[], [Record(text="of another kind")], [Record(prompt="a", response="unheard of")]])
def test_records_that_do_not_fit_change_neither_whether_there_is_an_answer_nor_its_cost(
    home: Home, records: list[Record]
) -> None:
    home.records = records
    home.deliver()
    home.asked()
    assert home.counts(home.asked()).epsilon == 0.5
    assert home.charges() == [("run-1/counts/vote.2.0", True)]


def test_records_that_cannot_be_read_are_paid_for_all_the_same(home: Home) -> None:
    def unreadable() -> list[Record]:
        raise StorageError("the folder of the records")

    home.deliver()
    home.judge._records = unreadable
    home.asked()
    assert home.counts(home.asked()).purpose == "vote"
    assert home.faults == ["a version could not be measured: StorageError"]


def test_a_candidate_of_another_task_is_judged_by_nobody(home: Home) -> None:
    home.deliver(task__template="{prompt}?")
    home.asked()
    assert "another task" in home.asked().withheld
    assert home.charges() == []


def test_a_candidate_whose_settings_do_not_go_with_its_adapter_costs_neither_memory_nor_budget(home: Home) -> None:
    export = Export(home.session, home.make_job(), seed=1)
    export.job = home.make_job(lora__rank=export.job.lora.rank * 2)
    built = home.session.model(home.used.job)
    message = wire.decode(export.file(promotion=export.promotion(channel="staging", number=2)))
    assert isinstance(message, wire.VersionFile)
    home.inbox.receive(message)
    home.asked()
    assert home.asked().withheld == "it cannot be judged here"
    assert home.session.model(home.used.job) is built
    assert home.charges() == []


def test_without_a_version_in_use_there_is_nothing_to_compare_with(home: Home) -> None:
    ChannelPlace(home.channels, "production").link.unlink()
    home.deliver()
    home.asked()
    assert "no version is in use" in home.asked().withheld
    assert home.charges() == []


def test_a_kill_before_the_file_costs_no_second_charge_and_one_after_it_no_second_draw(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    home.deliver()
    for place in (
        "yoriai.client.versions.judging.write_atomically",
        "yoriai.privacy.ledger.ledger.Ledger.mark_released",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, kill)
            with pytest.raises(Killed):
                home.asked()
        assert home.charges() == [("run-1/counts/vote.2.0", False)]
        home.allow(count_epsilon=0.5)
    (file,) = (home.channels / "counts").glob("vote.2.0.*.counts")
    assert home.asked().counts == file.read_text()
    assert home.charges() == [("run-1/counts/vote.2.0", True)]


def test_a_question_about_another_number_than_the_site_has_is_answered_without_counts(home: Home) -> None:
    home.deliver(number=2)
    for channel, number, period in (("staging", 3, 0), ("production", 9, 1), ("production", 1, 0), ("staging", 2, 1)):
        question = wire.ChannelQuestion(run_id="run-1", channel=channel, number=number, period=period)
        home.inbox.answer(question)
        home.inbox.work_off()
    assert home.charges() == []


# A check.


def test_a_check_of_the_version_in_use_is_charged_once_a_period(home: Home) -> None:
    for period in (1, 1, 2, 2):
        home.asked("production", period)
    for period in (1, 2):
        assert home.counts(home.asked("production", period)).period == period
    assert [job for job, _ in home.charges()] == ["run-1/counts/check.1.1", "run-1/counts/check.1.2"]


def test_a_site_that_withholds_its_check_makes_it_for_itself_and_its_own_alarm_says_drift(home: Home) -> None:
    home.allow()
    version = Judged(home.used.job, home.used.adapter)
    given = measure(version, TESTS, home.session, unit="record").per_record
    assert given is not None
    right = [
        Record(prompt=record.prompt, response=LABELS[label]) for record, label in zip(TESTS, given.given, strict=True)
    ]
    wrong = [
        Record(prompt=record.prompt, response=LABELS[label - 1])
        for record, label in zip(TESTS, given.given, strict=True)
    ]
    for period, home.records in ((1, right), (2, right), (3, wrong)):
        assert not OwnChecks(home.channels).has_drifted()
        assert home.asked("production", period).counts == ""
    assert OwnChecks(home.channels).entries() == [[1, 1, 8, 0], [1, 2, 8, 0], [1, 3, 0, 8]]
    assert home.drifted == ["run-1"]
    assert OwnChecks(home.channels).has_drifted()
    assert home.charges() == []
    home.asked("production", 3)
    assert len(OwnChecks(home.channels).entries()) == 3


def test_a_site_that_has_given_all_of_its_answers_goes_on_checking_for_itself(home: Home) -> None:
    home.allow(count_epsilon=0.5, count_answers=1)
    for period in (1, 2, 2):
        state = home.asked("production", period)
    assert "policy.count_answers" in state.withheld
    assert [entry[:2] for entry in OwnChecks(home.channels).entries()] == [[1, 1], [1, 2]]
    assert home.charges() == [("run-1/counts/check.1.1", True)]


def test_a_check_in_which_no_record_was_answered_is_held_against_no_later_one(home: Home) -> None:
    own = OwnChecks(home.channels)
    checks = [(0, 0), (8, 0), (0, 0), (0, 8)]
    told = [own.note(1, period, np.array(counts)) for period, counts in enumerate(checks)]
    assert told == [False, False, False, True]
    assert own.has_drifted()


def test_of_checks_that_were_asked_for_beside_a_job_the_last_one_is_made(home: Home) -> None:
    home.allow()
    for period in range(1, 5):
        home.inbox.answer(wire.ChannelQuestion(run_id="run-1", channel="production", number=1, period=period))
    home.inbox.work_off()
    assert [entry[:2] for entry in OwnChecks(home.channels).entries()] == [[1, 4]]


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [((80, 20), (60, 40), True), ((80, 20), (75, 25), False), ((8, 2), (6, 4), False), ((0, 0), (0, 9), False)],
)
def test_a_fall_within_chance_is_no_drift(before: tuple[int, int], now: tuple[int, int], worse: bool) -> None:
    assert is_worse(before, now) is worse


# Beside a job.


def test_a_version_that_comes_beside_a_job_leaves_the_job_alone_and_is_judged_once_no_job_is_at_hand(
    home: Home, make_job: JobMaker
) -> None:
    config = SiteConfig(name="north", policy=PolicySection(epsilon_budget=20.0, allow_plain_updates=True))
    job, first = make_job(), home.session.initial_adapter(make_job())

    def started() -> Site:
        return Site(
            config,
            site_records(),
            session=home.session,
            ledger=home.ledger,
            identity=home.identity,
            channels=home.inbox,
        )

    def said(site: Site, message: wire.Message) -> wire.Message:
        reply = wire.decode(site.handle(KNOWN.sealed("north", message)))
        site.afterwards()
        return reply

    site = started()
    offer = wire.JobOffer(
        run_id="job",
        job=job.model_dump(mode="json", by_alias=True),
        roster=wire.Roster(serial=1, weights={"north": 2, "south": 1}),
        base_digest=home.session.base.digest,
        noise_multiplier=noise_for(job),
        payload=first.to_bytes(),
    )
    assert isinstance(said(site, offer), wire.Acceptance)
    export = Export(home.session, make_job(), seed=1)
    candidate = wire.decode(export.file(promotion=export.promotion(channel="staging", number=2)))
    assert isinstance(said(site, candidate), wire.ChannelState)
    question = wire.ChannelQuestion(run_id="run-1", channel="staging", number=2)
    assert isinstance(said(site, question), wire.ChannelState)
    sent = first.select(rule_of(job).trainable(0)).to_bytes()
    train = wire.TrainRequest(run_id="job", round_index=0, adapter_digest=first.digest(), payload=sent)
    assert isinstance(said(site, train), wire.PlainUpdate)
    assert [run for run, _ in home.charges()] == ["job"]
    answer = said(started(), question)
    assert isinstance(answer, wire.ChannelState)
    assert home.charges()[1:] == [("run-1/counts/vote.2.0", True)]


def test_a_version_or_a_question_that_is_not_the_coordinators_is_refused(home: Home) -> None:
    config = SiteConfig(name="north", policy=PolicySection(epsilon_budget=20.0))
    parts = {"session": home.session, "ledger": home.ledger, "identity": home.identity}
    site = Site(config, site_records(), **parts, channels=home.inbox)  # type: ignore[arg-type]
    export = Export(home.session, home.make_job(), seed=1)
    question = wire.ChannelQuestion(run_id="run-1", channel="production")
    for data in (export.file(promotion=export.promotion(number=2)), wire.encode(question)):
        assert isinstance(wire.decode(site.handle(data)), wire.Refusal)
    assert ChannelPlace(home.channels, "production").delivered() is None


# The counts.


def labelled(*given: int) -> PerRecord:
    count = len(given)
    return PerRecord.classified(np.zeros(count), np.zeros(count), np.array(given), np.zeros(count))


def alone(*given: int) -> Measured:
    return Measured(labelled(*given), tuple((index,) for index in range(len(given))))


def test_a_record_counts_as_gained_or_lost_or_neither() -> None:
    assert vote_counts(alone(0, 0, 1, 1, 0), alone(0, 1, 0, 1, 1)).tolist() == [2, 1]
    assert check_counts(alone(0, 0, 1)).tolist() == [2, 1]


def test_an_owners_records_count_as_one_vector_of_length_one() -> None:
    rows = np.array([[True, False]] * 3 + [[False, True]] * 4 + [[True, False]])
    found = clipped_sum(rows, ((0, 1, 2, 3, 4, 5, 6), (7,)))
    assert np.allclose(found, [0.6 + 1, 0.8])


def test_a_record_moves_the_counts_by_one_at_most_and_no_other_records_answer_at_all(
    session: ModelSession, make_job: JobMaker
) -> None:
    versions = [Export(session, make_job(), seed=seed) for seed in (0, 1)]
    long = Record(prompt="it " * 20 + "broke", response=LABELS[0])

    def found(records: tuple[Record, ...]) -> list[Measured]:
        return [measure(Judged(v.job, v.adapter), records, session, unit="record") for v in versions]

    few, more = found(TESTS), found((*TESTS, long))
    for one, other in zip(few, more, strict=True):
        assert one.per_record is not None
        assert other.per_record is not None
        assert one.per_record.losses.tobytes() == other.per_record.losses[:-1].tobytes()
    assert np.linalg.norm(vote_counts(*few) - vote_counts(*more)) <= 1
    assert np.linalg.norm(check_counts(few[0]) - check_counts(more[0])) == 1


def test_the_noise_has_the_deviation_that_is_charged() -> None:
    event, source = SampledGaussian(1.0, 20.0), SystemSource()
    drawn = np.array([noised(np.array([3.0, 0.0]), event, source) for _ in range(20_000)])
    assert abs(drawn.mean(0) - [3, 0]).max() < 5 * 20 / np.sqrt(20_000)
    assert abs(drawn.std(0) / 20 - 1).max() < 0.03
