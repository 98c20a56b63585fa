"""Whole conversations with one site on neighbouring data sets: the coordinator cannot tell which of them it has.

A conversation holds every kind of message, most of them hostile. Its answers must be alike, field by field, on any two
data sets; of an update, which carries noise and is paid for, only the length is compared.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import LABELS, JobMaker
from tests.client.offices import Office, noise_for
from yoriai import wire
from yoriai.client.offer.job_book import JobBook
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.config import PolicySection, SiteConfig
from yoriai.privacy.ledger.ledger import Ledger

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

SECRET = "B24"
USUAL = tuple(Record(prompt=f"order {n}", response=LABELS[n % 3], owner=f"owner {n % 4}") for n in range(8))
CHAT = (("user", "a"), ("assistant", "b"))


def odd(**parts: Any) -> Record:
    """A record of one more owner."""
    return Record(**{"owner": "owner 9", **parts})


# Some are further apart than neighbours are: what tells nothing of several records tells nothing of one.
NEIGHBOURS = {
    "one more": (*USUAL, odd(prompt="order 9", response="pump")),
    "labels of their own": (*USUAL, odd(prompt="order 9", response=SECRET), odd(prompt="order 9", response="")),
    "longer and shorter": (*USUAL, odd(prompt="x" * 600, response="pump"), odd(prompt="", response="pump")),
    "of other kinds": (*USUAL, odd(text="order 9"), odd(text=""), odd(messages=CHAT)),
    "that no tokenizer takes": (*USUAL, odd(prompt="\ud800", response="pump")),
    "without an owner": (*USUAL, odd(prompt="order 9", response="pump", owner=None)),
    "none at all": (),
    "a lone misfit": (Record(text="order 9"),),
}
MODES: dict[str, dict[str, Any]] = {
    "per record": {},
    "per owner": {"privacy__unit": "owner"},
    "few of an owner's": {"privacy__unit": "owner", "privacy__records_per_owner": 1},
    "without privacy": {"privacy__noise": "none"},
}


@contextmanager
def office_of(bench: ModelSession, folder: Path, records: tuple[Record, ...], **policy: Any) -> Iterator[Office]:
    """A site with these records, a ledger and a book of its own."""
    folder.mkdir(parents=True)
    given = {"epsilon_budget": 100.0, "allow_plain_updates": True, "allow_no_privacy": True, "approve": "auto"}
    section = PolicySection(**{**given, **policy})
    with Ledger.open(
        folder / "ledger.sqlite", dataset="north", epsilon_budget=100.0, delta=section.delta, unit=section.unit
    ) as ledger:
        office = Office(bench, ledger, section, SiteRecords("north", records, ()))
        office.site = Site(
            SiteConfig(name="north", policy=section),
            office.records,
            session=bench,
            ledger=ledger,
            hooks=SiteHooks(on_fault=office.log.append),
            book=JobBook(folder / "jobs"),
        )
        yield office


def alike(reply: wire.Message) -> dict[str, Any]:
    """What two answers must have in common: all of it, but for the bytes that carry noise."""
    return {"kind": reply.kind, **reply.model_dump(), "size_bytes": len(getattr(reply, "payload", b""))}


def offers(bench: ModelSession, make_job: JobMaker, mode: dict[str, Any]) -> Iterator[wire.JobOffer]:
    """Offers that probe records, a run each: honest ones, bad ones, and ones that the policy rules out."""
    start = bench.initial_adapter(make_job()).to_bytes()
    private = mode.get("privacy__noise") != "none"
    number = itertools.count()

    def offer(changes: dict[str, Any] | None = None, /, **settings: Any) -> wire.JobOffer:
        values = {
            "run_id": f"run-{next(number)}",
            "job": make_job(**{**mode, **settings}).model_dump(mode="json", by_alias=True),
            "roster": wire.Roster(serial=1, weights={"north": 2, "south": 1}),
            "base_digest": bench.base.digest,
            "noise_multiplier": 50.0 if private else None,
            "payload": start,
        }
        return wire.JobOffer.model_construct(**(values | (changes or {})))  # Unchecked, as a hostile one would.

    yield offer()
    for labels in (("cabin",), (SECRET,), (*LABELS, SECRET), ()):
        yield offer(task__labels=labels)
    for max_tokens, too_long in ((8, "refuse"), (15, "refuse"), (64, "refuse"), (8, "cut")):
        yield offer(task__max_tokens=max_tokens, task__too_long=too_long)
    for kind in ("auto", "lm", "instruct"):
        yield offer(task__kind=kind, task__labels=())
    for template in ("{prompt}\nThis is ", "x" * 127 + "{prompt}"):
        yield offer(task__template=template)
    if private:
        for units in (2, 8, 9, 10):
            yield offer(privacy__delta=1 / units)
        yield offer({"noise_multiplier": 1e-3})
    yield offer(privacy__unit="owner" if mode.get("privacy__unit") != "owner" else "record")
    yield offer({"base_digest": "0" * 64})
    yield offer({"payload": b"not an adapter"})
    yield offer({"roster": wire.Roster(serial=1, weights={"south": 1, "east": 1})})
    yield offer({"job": {"name": "nonsense"}})
    yield offer({"payload": b""}, lora__rank=99)


def conversation(bench: ModelSession, make_job: JobMaker, mode: dict[str, Any]) -> list[bytes]:
    """Every offer; then all rounds of an honest run, among requests out of place. The same bytes for every site."""
    asked: list[wire.Message] = list(offers(bench, make_job, mode))
    honest, job = "run-0", make_job(**mode)
    start = bench.initial_adapter(job)
    first = asked[0]

    def train(index: int, run: str = honest, **changes: Any) -> wire.Message:
        values = {"adapter_digest": start.digest(), "payload": start.select(("R",)).to_bytes()}
        return wire.TrainRequest.model_construct(run_id=run, round_index=index, **(values | changes))

    # Of a run that was refused, of one that another took the place of, of one in which nothing fits, and an honest one.
    asked += [train(0, asked[4].run_id), train(0, asked[1].run_id), asked[2], train(0, asked[2].run_id)]
    asked += [first, *(train(index) for index in (0, 99, 0)), train(1, adapter_digest="0" * 64)]
    asked += [
        wire.WindowRequest(run_id=honest, window=0, slots=8),
        wire.SecureStage(run_id=honest, window=0, stage="share", payload=b"x"),
        wire.Delivery(run_id=honest, certificate="", statement=""),
        wire.Acceptance(run_id=honest, site="south"),
        *(train(index) for index in (1, 2, 1, 2)),
    ]
    return [*(wire.encode(message) for message in asked), b"", b"YORI\x00\x01\x00\x00\x00\x02[]"]


@pytest.mark.parametrize("mode", MODES)
def test_no_answer_tells_which_of_two_neighbouring_data_sets_a_site_has(
    session: ModelSession, make_job: JobMaker, tmp_path: Path, mode: str
) -> None:
    settings, heard = MODES[mode], {}
    names = list(NEIGHBOURS) if mode == "per record" else ["one more", "longer and shorter", "without an owner"]
    policy = {"unit": settings.get("privacy__unit", "record"), "delta": 0.5, "max_records": 9}
    asked = conversation(session, make_job, settings)
    for name, records in {"usual": USUAL, **{name: NEIGHBOURS[name] for name in names}}.items():
        with office_of(session, tmp_path / name, records, **policy) as office:
            heard[name] = [alike(wire.decode(office.site.handle(data))) for data in asked]
    kinds = [answer["kind"] for answer in heard["usual"]]
    assert kinds.count("acceptance") > 10
    assert kinds.count("plain_update") > 4
    for name, answers in heard.items():
        told = [(a, b) for a, b in zip(heard["usual"], answers, strict=True) if a != b]
        assert told == [], name


def test_an_operator_who_is_asked_decides_before_anything_looks_at_a_record(
    session: ModelSession, make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with office_of(session, tmp_path / "site", USUAL, approve="ask", delta=0.5) as office:

        class Unread:
            """Records that may not be looked at, not even counted."""

            def __getattribute__(self, name: str) -> object:
                raise AssertionError(f"a record was looked at: {name}")

        monkeypatch.setattr(office.site, "_records", Unread())
        waiting = [office.send(offer) for offer in offers(session, make_job, {})]
    assert not [reply for reply in waiting if not isinstance(reply, wire.Refusal)]
    assert [reply for reply in waiting if isinstance(reply, wire.Refusal) and "internal error" in reply.reason] == []
    assert sum(reply.waiting for reply in waiting if isinstance(reply, wire.Refusal)) >= 10


def test_labels_that_occur_cannot_be_found_by_halving_a_dictionary(
    session: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    dictionary = (*(letter + number * "x" for letter in "AB" for number in range(40)), *LABELS)
    for name in ("one more", "labels of their own"):
        with office_of(session, tmp_path / name, NEIGHBOURS[name]) as office:
            part = dictionary
            while len(part) > 1:
                part, office.run = part[: len(part) // 2], f"run-{len(part)}"
                rest = tuple(label for label in dictionary if label not in part)
                assert isinstance(office.offer(make_job(task__labels=rest)), wire.Acceptance)
                office.ledger.finish(office.run)
            assert list(office.ledger.charges()) == []


def test_the_longest_record_cannot_be_found_by_halving_lengths(
    session: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    with office_of(session, tmp_path / "site", USUAL) as office:
        for max_tokens in (128, 64, 32, 16, 12, 14, 13, 15):
            office.run = f"run-{max_tokens}"
            job = make_job(task__max_tokens=max_tokens, task__too_long="refuse")
            assert isinstance(office.offer(job), wire.Acceptance)
            office.ledger.finish(office.run)


@pytest.mark.parametrize("approve", ["ask", "auto"])
def test_the_number_of_records_cannot_be_found_by_halving_delta(
    session: ModelSession, make_job: JobMaker, tmp_path: Path, approve: str
) -> None:
    """With a policy.delta that bears it, 1 / delta above the live number was taken, and below it refused."""
    heard = []
    for name, records in (("few", USUAL), ("more", USUAL * 8)):
        with office_of(session, tmp_path / name, records, approve=approve, delta=0.5, max_records=100) as office:
            answers = []
            for office.run, units in ((f"run-{units}", units) for units in (4, 8, 16, 40, 64, 99, 100, 101, 500)):
                answers.append(alike(office.offer(make_job(privacy__delta=1 / units), noise_multiplier=50.0)))
                office.ledger.finish(office.run)
        heard.append(answers)
    assert heard[0] == heard[1]
    refused = [answer for answer in heard[0] if answer["kind"] == "refusal" and not answer["waiting"]]
    assert len(refused) == 7
    assert all("policy.max_records" in answer["reason"] for answer in refused)


@pytest.mark.parametrize("lacking", [MemoryError, RuntimeError])
def test_want_of_room_for_prepared_records_shows_in_the_sites_log_alone(
    session: ModelSession,
    make_job: JobMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: type[Exception],
) -> None:
    """How much room they take depends on how many they are, and on how long."""
    from yoriai.client.model import prepared

    def no_room(*_: object) -> None:
        raise lacking(SECRET)

    with office_of(session, tmp_path / "site", USUAL) as office:
        monkeypatch.setattr(prepared, "_allocate", no_room)
        job = make_job()
        assert isinstance(office.offer(job), wire.Acceptance)
        (line,) = office.log
        assert f"for want of room: {lacking.__name__}" in line
        assert SECRET not in line
        assert isinstance(office.train(job), wire.PlainUpdate)


def test_a_fault_in_reading_tokens_shows_in_the_sites_log_alone(
    session: ModelSession, make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoriai.client.session import model_session as module

    def fails(*_: object, **__: object) -> None:
        raise MemoryError(SECRET)

    with office_of(session, tmp_path / "site", USUAL) as office:
        monkeypatch.setattr(module, "fitting", fails)
        job = make_job()
        assert isinstance(office.offer(job), wire.Acceptance)
        assert "no record can be used: MemoryError" in office.log[0]
        assert isinstance(office.train(job), wire.PlainUpdate)
        assert office.charges() == [(0, True)]


def test_a_job_for_which_nothing_fits_is_charged_like_any_other(
    session: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job, charged = make_job(), []
    for name, records in (("usual", USUAL), ("none", ()), ("misfit", (Record(text="x"),))):
        with office_of(session, tmp_path / name, records) as office:
            assert isinstance(office.offer(job), wire.Acceptance)
            for index in range(3):
                office.train(job, index)
            charged.append([replace(charge) for charge in office.ledger.charges()])
    assert len(charged[0]) == 3
    assert [c.event for c in charged[0]] == [c.event for c in charged[1]] == [c.event for c in charged[2]]
    assert noise_for(job) is not None
