"""A site that protects owners: what it refuses, in which words, and what it charges."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import LABELS, JobMaker
from tests.client.offices import MARKER, Office, accepted, charge_and_size, noise_for, refused, updated
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.config import PolicySection
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.ledger.ledger import Ledger

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)


def owned(count: int = 8, owners: int = 4, *, lacking: int | None = None) -> SiteRecords:
    """Records of owners in turn; one may have none. Owners' names must not leave either."""
    train = tuple(
        Record(
            prompt=f"p {n}",
            response=LABELS[n % 3],
            owner=None if n == lacking else f"{MARKER} {n % owners}",
            place=f"/home/{MARKER}/train.jsonl line {n + 1}",
        )
        for n in range(count)
    )
    return SiteRecords("north", train, ())


@pytest.fixture
def office(session: ModelSession, tmp_path: Path) -> Iterator[Office]:
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, unit="owner", delta=0.5)
    with Ledger.open(
        tmp_path / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5, unit="owner"
    ) as ledger:
        yield Office(session, ledger, policy, owned())


def count_by(office: Office, unit: str, folder: Path) -> None:
    """Give the site a policy, and a ledger, of this unit."""
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, unit=unit)  # type: ignore[arg-type]
    office.ledger.close()
    office.ledger = Ledger.open(folder / f"{unit}.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5, unit=unit)
    office.rebuild()


def test_a_job_per_owner_runs_and_is_charged_as_one_per_record_would_be(office: Office, make_job: JobMaker) -> None:
    """The mechanism is the same, over other units: rate, noise and steps come from the job."""
    job = make_job(privacy__unit="owner", training__local_steps=2)
    accepted(office.offer(job, noise_multiplier=3.0))
    updated(office.train(job))
    assert office.ledger.charges()[-1].event == SampledGaussian(0.5, 3.0, 2)


def test_a_record_without_an_owner_is_left_out_and_named_in_the_sites_own_log(
    office: Office, make_job: JobMaker
) -> None:
    office.records = owned(lacking=5)
    office.rebuild()
    job = make_job(privacy__unit="owner")
    accepted(office.offer(job))
    assert len(office.log) == 1
    assert "1 of 8 records do not fit and count as zero (without an owner: 1)" in office.log[0]
    assert "train.jsonl line 6" in office.log[0]
    updated(office.train(job))


@pytest.mark.parametrize(("mine", "asked"), [("owner", "record"), ("record", "owner")])
def test_a_job_that_protects_another_unit_than_the_policy_is_refused(
    office: Office, make_job: JobMaker, tmp_path: Path, mine: str, asked: str
) -> None:
    count_by(office, mine, tmp_path)
    refused(office.offer(make_job(privacy__unit=asked)), f"found privacy.unit = {asked}; expected {mine} (policy.unit)")
    assert office.ledger.outstanding(office.run) == 0


def test_delta_is_held_against_the_public_bound_on_owners(office: Office, make_job: JobMaker) -> None:
    """Four owners: at a quarter one of them might be published whole."""
    office.policy = office.policy.model_copy(update={"max_records": 4})
    office.rebuild()
    refused(
        office.offer(make_job(privacy__unit="owner", privacy__delta=1 / 4), noise_multiplier=20.0),
        "not below 1 / policy.max_records; found 0.25; expected below 1 / 4 owners",
    )
    accepted(office.offer(make_job(privacy__unit="owner", privacy__delta=1 / 5), noise_multiplier=20.0))


def test_what_a_site_says_does_not_depend_on_one_owner(office: Office, make_job: JobMaker) -> None:
    job = make_job(privacy__unit="owner")
    one, other = (
        charge_and_size(office, job, owned(2 * owners, owners), f"run-{owners}", noise_multiplier=3.0)
        for owners in (4, 3)
    )
    assert one == other


def test_too_little_noise_is_refused_with_unit_neighbours_and_accountant_beside_its_epsilon(
    office: Office, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job(privacy__unit="owner")
    needed = noise_for(job)
    assert needed is not None
    reply = office.offer(job, noise_multiplier=needed * 0.98)
    refused(reply, "per owner (add or remove one owner), by PLD")
    count_by(office, "record", tmp_path)
    refused(office.offer(make_job(), noise_multiplier=0.011), "per record (add or remove one record), by RDP")
