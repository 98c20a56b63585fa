"""Whose messages a site acts on: its coordinator's alone, each once, and nothing else disturbs a job at work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.client.conftest import JobMaker
from tests.client.offices import noise_for, site_records
from tests.coordinators import DAY, Known
from yoriai import wire
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.site import Site
from yoriai.config import JobConfig, PolicySection, SiteConfig
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.statements.instruction import SequenceMemory
from yoriai.server.round.sealing import Sealer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

RUN = "run-1"


@dataclass
class Member:
    """A site with an identity, and the coordinator that its CA has certified."""

    bench: ModelSession
    ledger: Ledger
    folder: Path
    known: Known
    revoked: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        self.identity = replace(self.known.identity("north", self.folder), trust=self.trust)
        self.start()

    def start(self) -> None:
        """Start the site anew."""
        self.log: list[str] = []
        policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True)
        self.site = Site(
            SiteConfig(name="north", policy=policy),
            site_records(),
            session=self.bench,
            ledger=self.ledger,
            identity=self.identity,
        )

    def trust(self) -> Trust:
        """The CA, with a list that has the revoked keys."""
        now, authority = datetime.now(UTC), self.known.authority
        listed = authority.revocation_list([], self.revoked, number=1, now=now, valid_for=DAY)
        return Trust(authority.certificate.public_bytes(Encoding.DER), listed, now=now)

    def told(self, data: bytes) -> wire.Message:
        return wire.decode(self.site.handle(data))

    def offer(self, job: JobConfig, **changes: object) -> wire.JobOffer:
        fields = {
            "run_id": RUN,
            "job": job.model_dump(mode="json", by_alias=True),
            "roster": wire.Roster(serial=1, weights={"north": 2, "south": 1}),
            "base_digest": self.bench.base.digest,
            "noise_multiplier": noise_for(job),
            "payload": self.bench.initial_adapter(job).to_bytes(),
        }
        return wire.JobOffer(**{**fields, **changes})

    def request(self, job: JobConfig, index: int = 0) -> wire.TrainRequest:
        start = self.bench.initial_adapter(job)
        payload = start.select(("R",)).to_bytes()
        return wire.TrainRequest(run_id=RUN, round_index=index, adapter_digest=start.digest(), payload=payload)


@pytest.fixture
def member(session: ModelSession, tmp_path: Path) -> Iterator[Member]:
    with Ledger.open(tmp_path / "l.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
        yield Member(session, ledger, tmp_path, Known())


def refused(reply: wire.Message, why: str) -> None:
    assert isinstance(reply, wire.Refusal), reply
    assert why in reply.reason


Forge = Callable[[Member, wire.Message], bytes]


def _under(signing: tuple[SigningKey, bytes], site: str, message: wire.Message, run: str = RUN) -> bytes:
    return Sealer(signing, run).sealed(site, wire.encode(message))


def _changed(data: bytes, **changes: object) -> bytes:
    message = wire.decode(data)
    return wire.encode(message.model_copy(update=changes))


def _as_another(member: Member, message: wire.Message, federation: str) -> bytes:
    """Signed by the coordinator of another federation that the CA has certified too, but as this one's would say it."""
    instruction = wire.decode(member.known.sealed("north", message))
    return _changed(wire.encode(instruction), certificate=member.known.certificate(federation).decode())


_STRANGER = Known()

FORGERIES: dict[str, tuple[Forge, str]] = {
    "not signed": (lambda m, message: wire.encode(message), "is not signed by the coordinator"),
    "another CA's coordinator": (lambda m, message: _STRANGER.sealed("north", message), "right signature"),
    "another key than the certificate's": (
        lambda m, message: _under((SigningKey.generate(), m.known.certificate()), "north", message),
        "right signature",
    ),
    "for another site": (lambda m, message: m.known.sealed("south", message), "addressed to another site"),
    "of another federation": (
        lambda m, message: _under((m.known.key, m.known.certificate("iwate")), "north", message),
        "another federation",
    ),
    "of another federation's coordinator, in this one's name": (
        lambda m, message: _as_another(m, message, "iwate"),
        "certificate is another federation",
    ),
    "under a certificate that has expired": (
        lambda m, message: _under(
            (m.known.key, m.known.certificate(valid_for=timedelta(seconds=-5))), "north", message
        ),
        "has expired",
    ),
    "with another message than was signed": (
        lambda m, message: _changed(m.known.sealed("north", message), payload=wire.encode(message) + b"x"),
        "not the one that its coordinator signed",
    ),
    "signed for another run": (lambda m, message: _under(m.known.signing(), "north", message, "run-2"), "the run"),
    "named as of another run": (
        lambda m, message: _changed(m.known.sealed("north", message), run_id="run-2"),
        "the run",
    ),
    "an instruction in an instruction": (
        lambda m, message: m.known.sealed("north", wire.decode(m.known.sealed("north", message))),
        "one message",
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_what_the_coordinator_has_not_signed_for_this_site_is_refused_and_disturbs_no_job_at_work(
    kind: str, member: Member, make_job: JobMaker
) -> None:
    job, (forge, why) = make_job(), FORGERIES[kind]
    assert isinstance(member.told(member.known.sealed("north", member.offer(job))), wire.Acceptance)
    kept = member.identity.taken
    for message in (member.offer(job), member.request(job)):
        refused(member.told(forge(member, message)), why)
    assert member.ledger.charges() == []
    assert member.identity.taken is kept
    assert isinstance(member.told(member.known.sealed("north", member.request(job))), wire.PlainUpdate)


def test_a_message_is_taken_once_and_its_copy_neither_trains_nor_charges_also_after_a_restart(
    member: Member, make_job: JobMaker
) -> None:
    job = make_job()
    offer = member.known.sealed("north", member.offer(job))
    request = member.known.sealed("north", member.request(job))
    assert isinstance(member.told(offer), wire.Acceptance)
    assert isinstance(member.told(request), wire.PlainUpdate)
    charged = member.ledger.charges()
    for _ in range(2):
        for copy in (offer, request):
            refused(member.told(copy), "taken already, or is older")
        seen = SequenceMemory(member.folder / "north.coordinator.seen")
        member.identity = replace(member.identity, taken=seen)
        member.start()
    assert member.ledger.charges() == charged


def test_a_copy_of_an_older_message_is_refused_though_it_was_never_taken(member: Member, make_job: JobMaker) -> None:
    """Kept back on the way, and shown when it suits: the coordinator has gone on meanwhile."""
    job = make_job()
    kept_back = member.known.sealed("north", member.offer(job))
    assert isinstance(member.told(member.known.sealed("north", member.offer(job))), wire.Acceptance)
    refused(member.told(kept_back), "taken already, or is older")


def test_a_coordinator_that_is_started_anew_goes_on_above_its_last_number(member: Member, make_job: JobMaker) -> None:
    job = make_job()
    for _ in range(3):  # A new Sealer each, as after a restart, and nothing kept from the one before.
        assert isinstance(member.told(member.known.sealed("north", member.offer(job))), wire.Acceptance)


def test_numbers_grow_where_the_clock_stands_still_or_was_set_back(member: Member, make_job: JobMaker) -> None:
    times = iter([500, 500, 3, 501])
    sealer = Sealer(member.known.signing(), RUN, clock=lambda: next(times))
    job = make_job()
    for message in (member.offer(job), member.offer(job), member.offer(job), member.offer(job)):
        assert isinstance(member.told(sealer.sealed("north", wire.encode(message))), wire.Acceptance)


def test_a_revoked_coordinators_key_asks_nothing_from_the_moment_the_list_is_here(
    member: Member, make_job: JobMaker
) -> None:
    job = make_job()
    assert isinstance(member.told(member.known.sealed("north", member.offer(job))), wire.Acceptance)
    member.revoked = (member.known.key.public_key.public_bytes_raw(),)
    refused(member.told(member.known.sealed("north", member.request(job))), "the coordinator's key is revoked")
    assert member.ledger.charges() == []


def test_a_site_whose_memory_of_numbers_is_damaged_acts_on_nothing_and_tells_no_path(
    member: Member, make_job: JobMaker
) -> None:
    (member.folder / "north.coordinator.seen").write_text("")
    reply = member.told(member.known.sealed("north", member.offer(make_job())))
    refused(reply, "cannot be read or written; its own log says where")
    assert member.ledger.open_plans() == {}


def test_a_nonsense_offer_of_the_run_leaves_its_job_as_it_is(member: Member, make_job: JobMaker) -> None:
    """Signed even: a job is given up for another only when that one has passed every check."""
    job = make_job()
    assert isinstance(member.told(member.known.sealed("north", member.offer(job))), wire.Acceptance)
    nonsense = wire.JobOffer(
        run_id=RUN, job={}, roster=wire.Roster(serial=1, weights={"north": 1}), base_digest="x", noise_multiplier=None
    )
    refused(member.told(member.known.sealed("north", nonsense)), "")
    wrong = member.offer(job, payload=b"no adapter")
    refused(member.told(member.known.sealed("north", wrong)), "")
    assert isinstance(member.told(member.known.sealed("north", member.request(job))), wire.PlainUpdate)


def test_a_site_without_an_identity_has_no_coordinator_to_know_and_reads_no_signature(
    member: Member, make_job: JobMaker
) -> None:
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True)
    bare = Site(SiteConfig(name="north", policy=policy), site_records(), session=member.bench, ledger=member.ledger)
    job = make_job()
    assert isinstance(wire.decode(bare.handle(wire.encode(member.offer(job)))), wire.Acceptance)
    reply = wire.decode(bare.handle(member.known.sealed("north", member.offer(job))))
    refused(reply, "does not answer messages of kind instruction")
