"""A site and the last adapter of a job: whose word it takes, what it stores, what it measures, and what it tells."""

import itertools
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from safetensors.numpy import load_file

from tests.client.conftest import LABELS, JobMaker
from tests.client.last_adapters import last_adapter
from tests.client.offices import MARKER, noise_for, site_records
from tests.commands import Outcome, yoriai
from tests.coordinators import Known
from tests.crashes import full_disk, survives
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai import wire
from yoriai.base_digest import of_weights
from yoriai.client.cli.jobs_terms import early_end
from yoriai.client.folder.site_folder import make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Entry
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import LabelWords, base_tally
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.site.site import Site
from yoriai.client.versions import own_evaluation
from yoriai.client.versions.deliveries import Deliveries
from yoriai.client.versions.own_evaluation import Measuring
from yoriai.config import JobConfig, PolicySection, SiteConfig, job_digest
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.privacy.statements.delivery import DeliveryStatement, sign_delivery
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule, rule_of
from yoriai.system.users import operator_name

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

KNOWN = Known()
TESTS = tuple(Record(prompt=f"{MARKER} test {n}", response=LABELS[n % 3]) for n in range(6))


@dataclass
class Home:
    """A site with a job book and a place for adapters, and the coordinator's side of a conversation with it."""

    bench: ModelSession
    ledger: Ledger
    folder: Path
    policy: PolicySection
    tests: tuple[Record, ...] = TESTS
    samples: bool = True
    log: list[str] = field(default_factory=list)
    run: str = "run-1"

    def __post_init__(self) -> None:
        self.adapters = self.folder / "adapters"
        self.adapters.mkdir(exist_ok=True)
        self.identity = KNOWN.identity("north", self.folder)
        self.rebuild()

    def rebuild(self) -> None:
        """Start the site anew."""
        config, self.book = SiteConfig(name="north", policy=self.policy), JobBook(self.folder / "jobs")
        records = replace(site_records(), test=self.tests)
        self.measuring = Measuring(
            self.tests, self.bench, samples=self.samples, progress=None, on_fault=self.log.append
        )
        deliveries = Deliveries(
            config,
            session=self.bench,
            ledger=self.ledger,
            identity=self.identity,
            book=self.book,
            folder=self.adapters,
            on_stored=self.measuring.add,
        )
        self.site = Site(
            config,
            records,
            session=self.bench,
            ledger=self.ledger,
            identity=self.identity,
            hooks=SiteHooks(on_fault=self.log.append),
            book=self.book,
            deliveries=deliveries,
        )

    def send(self, message: wire.Message) -> wire.Message:
        """Ask, do what comes after the reply, and see that no word of the records is in the answer."""
        reply = self.site.handle(KNOWN.sealed("north", message))
        self.measuring.work_off()
        assert MARKER.encode() not in reply
        return wire.decode(reply)

    def offer(self, job: JobConfig, **changes: Any) -> wire.Message:
        values = {
            "run_id": self.run,
            "job": job.model_dump(mode="json", by_alias=True),
            "roster": wire.Roster(serial=1, weights={"north": 2, "south": 1}),
            "base_digest": self.bench.base.digest,
            "noise_multiplier": noise_for(job),
            "payload": b"" if "payload" in changes else self.bench.initial_adapter(job).to_bytes(),
        }
        return self.send(wire.JobOffer(**(values | changes)))

    def took_part(self, job: JobConfig) -> AdapterState:
        """Accept the job and have one update leave; the adapter that might come of it."""
        reply = self.offer(job)
        assert isinstance(reply, wire.Acceptance), reply
        return self.took_part_in_round(job)

    def took_part_in_round(self, job: JobConfig) -> AdapterState:
        """Have one update of an accepted job leave; the adapter that might come of it."""
        start = self.bench.initial_adapter(job)
        sent = start.select(rule_of(job).trainable(0)).to_bytes()
        request = wire.TrainRequest(run_id=self.run, round_index=0, adapter_digest=start.digest(), payload=sent)
        assert isinstance(self.send(request), wire.PlainUpdate)
        return last_adapter(self.bench, job)

    def deliver(self, job: JobConfig, adapter: AdapterState | None, **changes: Any) -> wire.Message:
        """Deliver, or tell the end alone, with fields of the statement or of the message changed."""
        fields: dict[str, Any] = {
            "federation": "miyagi",
            "run_id": self.run,
            "job_digest": job_digest(job, self.bench.base.digest),
            "base_digest": self.bench.base.digest,
            "roster_digest": "",
            "rounds": job.federation.rounds,
            "adapter_digest": adapter.digest() if adapter else "",
        }
        if adapter is None:
            fields["adapter_digest"] = ""
        statement = DeliveryStatement(**{key: changes.get(key, value) for key, value in fields.items()})
        return self.send(
            wire.Delivery(
                run_id=changes.get("message_run_id", statement.run_id),
                certificate=changes.get("certificate", KNOWN.certificate()).decode(),
                statement=changes.get("statement", sign_delivery(changes.get("key", KNOWN.key), statement)).decode(),
                payload=changes.get("payload", adapter.to_bytes() if adapter else b""),
            )
        )

    def stored(self) -> list[Path]:
        return sorted(self.adapters.iterdir())


@pytest.fixture
def home(session: ModelSession, tmp_path: Path) -> Iterator[Home]:
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, approve="auto")
    with Ledger.open(tmp_path / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
        yield Home(session, ledger, tmp_path, policy)


def refused(reply: wire.Message, reason: str) -> wire.Refusal:
    assert isinstance(reply, wire.Refusal), reply
    assert reason in reply.reason
    return reply


def received(reply: wire.Message, adapter: AdapterState) -> None:
    assert isinstance(reply, wire.Receipt), reply
    assert reply.adapter_digest == adapter.digest()


# Approval


def asking(home: Home) -> Home:
    home.policy = home.policy.model_copy(update={"approve": "ask"})
    home.rebuild()
    return home


def decide(home: Home, verdict: Any, run: str = "run-1") -> None:
    home.book.decide(home.book.find(run), verdict, by="hana")


def test_a_job_waits_for_its_operator_and_nothing_is_promised_or_tokenised(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    payload = home.bench.initial_adapter(job).to_bytes()
    for name in ("encode", "prepare", "model"):
        monkeypatch.setattr(home.bench, name, None)
    reply = refused(asking(home).offer(job, payload=payload), "waits for its operator: yoriai site approve DIR run-1")
    assert reply.waiting
    assert home.ledger.outstanding("run-1") == 0
    entry = home.book.entry("run-1")
    assert entry is not None
    assert (entry.state, entry.terms.weights) == ("waiting", {"north": 2, "south": 1})
    assert entry.terms.epsilon == pytest.approx(8.0, abs=0.05)
    assert entry.terms.epsilon <= 8.0


def test_an_approved_job_is_taken_and_taken_again_after_a_restart(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    asking(home).offer(job)
    decide(home, "approved")
    home.took_part(job)
    home.rebuild()
    home.took_part(job)
    assert home.ledger.outstanding("run-1") == 2


def test_an_approved_run_on_other_terms_waits_anew_and_the_policy_still_holds(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    asking(home).offer(job)
    decide(home, "approved")
    noise = noise_for(job)
    assert noise is not None
    refused(home.offer(job, noise_multiplier=noise / 2), "does not keep what the job promises")
    for changes in ({"noise_multiplier": noise * 2}, {"roster": wire.Roster(serial=1, weights={"north": 2, "x": 1})}):
        assert refused(home.offer(job, **changes), "waits for its operator").waiting
    assert refused(home.offer(make_job(training__learning_rate=0.5)), "waits for its operator").waiting
    assert home.ledger.outstanding("run-1") == 0


def test_a_job_against_the_policy_is_not_put_to_the_operator_but_shown_as_declined(
    home: Home, make_job: JobMaker
) -> None:
    reply = refused(asking(home).offer(make_job(privacy__noise="none")), "forbids jobs without differential privacy")
    assert not reply.waiting
    (entry,) = home.book.entries()
    assert (entry.state, "forbids jobs without differential privacy" in entry.reason) == ("declined", True)
    with pytest.raises(ConfigError, match="own policy declines"):
        decide(home, "approved")


def test_an_operators_no_is_one_for_good_and_gives_back_what_was_promised(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    asking(home).offer(job)
    decide(home, "approved")
    adapter = home.took_part(job)
    decide(home, "refused")
    request = wire.TrainRequest(run_id="run-1", round_index=0, adapter_digest=adapter.digest())
    refused(home.send(request), "its operator has refused")
    assert not refused(home.offer(job), "its operator has refused").waiting
    assert home.ledger.outstanding("run-1") == 0
    refused(home.deliver(job, adapter), "has not taken part in run run-1; found refused")


@pytest.mark.parametrize("approve", ["ask", "auto"])
def test_an_operators_no_holds_for_the_run_whichever_setting_is_changed(
    home: Home, make_job: JobMaker, approve: Any
) -> None:
    home.policy = home.policy.model_copy(update={"approve": approve})
    home.rebuild()
    home.offer(make_job())
    decide(home, "refused")
    noise = noise_for(make_job())
    assert noise is not None
    for job, changes in (
        (make_job(), {}),
        (make_job(training__learning_rate=0.99), {}),
        (make_job(name="another"), {}),
        (make_job(), {"noise_multiplier": noise * 2}),
        (make_job(), {"roster": wire.Roster(serial=2, weights={"north": 1, "east": 1})}),
    ):
        assert not refused(home.offer(job, **changes), "its operator has refused run run-1").waiting
    assert home.ledger.promised() == 0
    (entry,) = home.book.entries()
    assert entry.state == "refused"


def test_an_offer_that_waits_leaves_the_job_at_hand_alone(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    asking(home).offer(job)
    decide(home, "approved")
    request = train(home, job)
    # The bench is the site's: what another job's first adapter is made on would be this test's doing, not the offer's.
    assert refused(home.offer(make_job(lora__rank=2), run_id="run-2", payload=b"unread"), "waits").waiting
    assert isinstance(home.send(request), wire.PlainUpdate)


def test_an_approved_offer_with_an_unfit_adapter_leaves_the_job_at_hand_alone(home: Home, make_job: JobMaker) -> None:
    job, other = make_job(), make_job(lora__rank=2)
    unfit = home.bench.initial_adapter(make_job(lora__rank=1)).to_bytes()
    request = train(home, job)
    refused(home.offer(other, run_id="run-2", payload=unfit), "factors are not those")
    assert isinstance(home.send(request), wire.PlainUpdate)


def train(home: Home, job: JobConfig) -> wire.TrainRequest:
    """Take part in a job; what asks for one more update of the same round."""
    home.took_part(job)
    start = home.bench.initial_adapter(job)
    return wire.TrainRequest(
        run_id="run-1", round_index=0, adapter_digest=start.digest(), payload=start.select(("R",)).to_bytes()
    )


def test_auto_takes_the_job_at_once_and_keeps_it_in_the_book(home: Home, make_job: JobMaker) -> None:
    home.took_part(make_job())
    (entry,) = home.book.entries()
    assert (entry.state, entry.decided_by) == ("accepted", "policy.approve = auto")


# DeliveryStatement


def test_a_signed_adapter_is_stored_in_pefts_format_with_what_proves_it(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    assert home.ledger.outstanding("run-1") == 3
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    assert folder.name == f"run-1-{adapter.digest()[:12]}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert AdapterState.from_bytes((folder / "version.safetensors").read_bytes()) == adapter
    assert (folder / "coordinator.cert").read_bytes().startswith(b"yoriai-coordinator-1\n")
    assert (folder / "statement").read_bytes().startswith(b"yoriai-delivery-1\n")
    assert home.ledger.outstanding("run-1") == 0
    model: Any = PeftModel.from_pretrained(tiny_llama(tiny_tokenizer()), str(folder))
    expected = get_rule("core").to_peft(adapter)
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        path, side = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
        np.testing.assert_array_equal(tensor, expected.factor(path, side[0]))
        loaded = model.get_parameter(name.replace(".weight", ".default.weight")).detach().numpy()
        np.testing.assert_array_equal(loaded, tensor)


def test_a_site_that_was_started_anew_takes_the_adapter_all_the_same(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.rebuild()
    home.bench.model(make_job(lora__rank=2))
    received(home.deliver(job, adapter), adapter)
    assert len(home.stored()) == 1


def test_a_second_delivery_is_confirmed_and_writes_nothing(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.deliver(job, adapter)
    (folder,) = home.stored()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    home.rebuild()
    received(home.deliver(job, adapter), adapter)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_adapter_of_the_same_run_is_refused_and_the_first_is_kept(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.deliver(job, adapter)
    before = home.stored()
    refused(home.deliver(job, last_adapter(home.bench, job, seed=1)), "has come to another end already")
    assert home.stored() == before
    refused(home.offer(job), "has ended")


def test_another_adapter_is_refused_even_where_the_first_was_moved_away(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.deliver(job, adapter)
    home.stored()[0].rename(home.folder / "elsewhere")
    refused(home.deliver(job, last_adapter(home.bench, job, seed=1)), "has come to another end already")
    assert home.stored() == []
    received(home.deliver(job, adapter), adapter)


@pytest.mark.parametrize("privacy", ["local", "none"])
def test_a_run_in_which_no_update_of_the_site_is_brings_it_no_adapter(
    home: Home, make_job: JobMaker, privacy: str
) -> None:
    """Else a coordinator whom the policy alone lets in could fill the disk with ever other runs."""
    home.policy = home.policy.model_copy(update={"allow_no_privacy": True})
    home.rebuild()
    job = make_job(privacy__noise=privacy)
    assert isinstance(home.offer(job), wire.Acceptance)
    adapter = last_adapter(home.bench, job)
    refused(home.deliver(job, adapter), "no update of this site is in run run-1")
    assert home.stored() == []
    home.took_part(job)
    received(home.deliver(job, adapter), adapter)


def test_a_disk_that_the_adapter_would_fill_is_spared(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    adapter = home.took_part(job)
    free, usage = 4 * len(adapter.to_bytes()), shutil.disk_usage(home.adapters)
    monkeypatch.setattr(
        "yoriai.client.versions.adapter_place.shutil.disk_usage", lambda _: usage._replace(free=free - 1)
    )
    refused(home.deliver(job, adapter), "its disk has too little room for the adapter")
    assert home.stored() == []
    monkeypatch.setattr("yoriai.client.versions.adapter_place.shutil.disk_usage", lambda _: usage._replace(free=free))
    received(home.deliver(job, adapter), adapter)


def test_a_place_for_adapters_is_made_for_the_sites_user_alone(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.adapters.rmdir()
    received(home.deliver(job, adapter), adapter)
    assert stat.S_IMODE(home.adapters.stat().st_mode) == 0o700


def test_where_the_place_for_adapters_is_no_folder_the_reply_says_so_and_the_log_which(
    home: Home, make_job: JobMaker
) -> None:
    job = make_job()
    adapter = home.took_part(job)
    home.adapters.rmdir()
    home.adapters.touch()
    refused(home.deliver(job, adapter), "the files of site north cannot be read or written")
    assert [str(home.adapters) in line and "cannot be written" in line for line in home.log] == [True]


def test_an_adapter_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_the_receipt(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may take is what was not synced."""
    synced: list[tuple[int, bool]] = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        named = any(not path.name.startswith(".") for path in home.stored())
        synced.append((os.fstat(descriptor).st_ino, named))
        sync(descriptor)

    job = make_job()
    adapter = home.took_part(job)
    monkeypatch.setattr(os, "fsync", noting)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    delivered = {path for path in folder.iterdir() if path.name != "evaluation.json"}
    assert {(path.stat().st_ino, False) for path in (folder, *delivered)} <= set(synced)
    assert (home.adapters.stat().st_ino, True) in synced


class Killed(BaseException):
    """No code of ours catches it, as none would run after a kill."""


def kill(*_: object) -> None:
    raise Killed


def test_a_delivery_that_a_kill_cut_short_is_stored_the_next_time(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    adapter = home.took_part(job)
    monkeypatch.setattr(Path, "rename", kill)
    monkeypatch.setattr("yoriai.client.versions.adapter_place.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(Killed):
        home.deliver(job, adapter)
    monkeypatch.undo()
    assert [path.name.startswith(".") for path in home.stored()] == [True]
    received(home.deliver(job, adapter), adapter)
    assert [path.name for path in home.stored()] == [f"run-1-{adapter.digest()[:12]}"]


@pytest.mark.parametrize("at", ["PEFT's file", "the complete adapter"])
def test_a_full_disk_refuses_the_adapter_and_leaves_nothing_half_made(home: Home, make_job: JobMaker, at: str) -> None:
    job = make_job()
    adapter = home.took_part(job)
    with full_disk(100 if at == "PEFT's file" else len(adapter.to_bytes()) - 1):
        reply = refused(home.deliver(job, adapter), "the files of site north cannot be read or written")
    assert str(home.folder) not in reply.reason
    assert [str(home.adapters) in line and "cannot be written" in line for line in home.log] == [True]
    assert home.stored() == []
    assert home.ledger.outstanding("run-1") == 3
    received(home.deliver(job, adapter), adapter)


@pytest.mark.parametrize("run_id", ["../../etc/x", "/tmp/x", "..", "a/b", "a*b", "ü" * 100])
def test_a_path_like_run_id_stays_among_the_adapters(home: Home, make_job: JobMaker, run_id: str) -> None:
    home.run, job = run_id, make_job()
    adapter = home.took_part(job)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    assert folder.is_dir()
    assert folder.resolve().parent == home.adapters.resolve()


OTHER = "0a" * 32


def test_the_end_of_a_run_that_an_earlier_version_began_is_taken(home: Home, make_job: JobMaker) -> None:
    """Its base is named by the weights alone, in the book and in the statement."""
    job, weights = make_job(), of_weights(home.bench.base.digest)
    assert isinstance(home.offer(job, base_digest=weights), wire.Acceptance)
    adapter = home.took_part_in_round(job)
    reply = home.deliver(job, adapter, base_digest=weights, job_digest=job_digest(job, weights))
    assert isinstance(reply, wire.Receipt), reply
    assert len(home.stored()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": SigningKey.generate()}, "does not bear the right signature"),
        ({"certificate": Known().certificate()}, "does not bear the right signature"),
        ({"certificate": KNOWN.certificate(key=SigningKey.generate())}, "does not bear the right signature"),
        ({"certificate": KNOWN.certificate("sendai")}, "another federation's"),
        ({"federation": "sendai"}, "another federation's"),
        ({"certificate": KNOWN.certificate("sendai"), "federation": "sendai"}, "another federation's"),
        ({"certificate": KNOWN.certificate(valid_for=timedelta(seconds=-1))}, "has expired"),
        ({"run_id": "run-2"}, "has not taken part in run run-2"),
        ({"message_run_id": "run-2"}, "about another run"),
        ({"job_digest": OTHER}, "of another job, base, length or roster"),
        ({"base_digest": OTHER}, "of another job, base, length or roster"),
        ({"rounds": 4}, "of another job, base, length or roster"),
        ({"roster_digest": OTHER}, "of another job, base, length or roster"),
        ({"adapter_digest": OTHER}, "not the one of the coordinator's statement"),
        ({"payload": b""}, "cannot be read"),
        ({"statement": b"yoriai-delivery-2\n" + b"0" * 128 + b"\n{}"}, "another version or kind"),
    ],
)
def test_a_delivery_that_is_not_vouched_for_is_refused_and_nothing_is_stored(
    home: Home, make_job: JobMaker, changes: dict[str, Any], reason: str
) -> None:
    job = make_job()
    adapter = home.took_part(job)
    refused(home.deliver(job, adapter, **changes), reason)
    assert home.stored() == []
    assert home.ledger.outstanding("run-1") == 3


def test_a_swapped_adapter_is_refused(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    other = last_adapter(home.bench, job, seed=1)
    refused(home.deliver(job, adapter, payload=other.to_bytes()), "not the one of the coordinator's statement")
    assert home.stored() == []


def test_a_signed_adapter_that_does_not_fit_the_job_is_refused(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    part = adapter.select(("R",))
    nan = AdapterState({n: np.full_like(t, np.nan) if n.endswith(":R") else t for n, t in adapter.tensors.items()})
    refused(home.deliver(job, part), "not those of this base and job")
    refused(home.deliver(job, nan), "not finite")
    assert home.stored() == []


def test_a_run_that_only_waits_takes_no_adapter(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    asking(home).offer(job)
    adapter = last_adapter(home.bench, job)
    refused(home.deliver(job, adapter), "has not taken part in run run-1; found waiting")
    assert home.stored() == []


def test_a_site_without_a_place_for_adapters_says_so(home: Home, make_job: JobMaker) -> None:
    config = SiteConfig(name="north", policy=home.policy)
    home.site = Site(config, site_records(), session=home.bench, ledger=home.ledger, identity=home.identity)
    job = make_job()
    refused(home.deliver(job, home.took_part(job)), "takes no adapters")


# An early end, and one without an adapter


def told(reply: wire.Message) -> None:
    assert isinstance(reply, wire.Receipt), reply
    assert reply.adapter_digest == ""


def entry_of(home: Home) -> Entry:
    (entry,) = home.book.entries()
    return entry


def test_an_adapter_after_fewer_rounds_is_stored_frees_the_rest_and_is_shown_as_early(
    home: Home, make_job: JobMaker
) -> None:
    job = make_job()
    adapter = home.took_part(job)
    received(home.deliver(job, adapter, rounds=1), adapter)
    assert len(home.stored()) == 1
    assert home.ledger.open_plans() == {}
    assert early_end(entry_of(home)) == "ended early after 1 of 3 rounds"
    assert b'"rounds":1' in (home.stored()[0] / "statement").read_bytes()


def test_a_run_that_ended_after_all_its_rounds_is_not_shown_as_early(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    assert early_end(entry_of(home)) == ""
    received(home.deliver(job, adapter), adapter)
    assert early_end(entry_of(home)) == ""


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_an_end_alone_frees_what_a_site_without_an_update_holds_and_nothing_more_is_done_for_the_run(
    home: Home, make_job: JobMaker, rounds: int
) -> None:
    job = make_job()
    assert isinstance(home.offer(job), wire.Acceptance)
    assert home.ledger.outstanding("run-1") == 4
    told(home.deliver(job, None, rounds=rounds))
    assert (home.ledger.open_plans(), home.stored(), entry_of(home).state) == ({}, [], "ended")
    request = wire.TrainRequest(run_id="run-1", round_index=0, adapter_digest="0" * 64)
    assert refused(home.send(request), "").unknown_job
    refused(home.offer(job), "run run-1 is over here")
    refused(home.offer(make_job(training__learning_rate=0.5)), "run run-1 is over here")
    assert home.ledger.open_plans() == {}


def test_an_end_that_is_told_twice_or_after_a_restart_is_confirmed_again(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    home.offer(job)
    for _ in range(2):
        told(home.deliver(job, None, rounds=0))
        home.rebuild()
        told(home.deliver(job, None, rounds=0))


def test_of_an_end_and_an_adapter_the_first_that_came_stays(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    told(home.deliver(job, None, rounds=1))
    refused(home.deliver(job, adapter, rounds=1), "has come to another end already")
    home.run = "run-2"
    home.took_part(job)
    received(home.deliver(job, adapter, rounds=1), adapter)
    refused(home.deliver(job, None, rounds=1), "has come to another end already")
    assert len(home.stored()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": SigningKey.generate()}, "does not bear the right signature"),
        ({"certificate": KNOWN.certificate("sendai")}, "another federation's"),
        ({"run_id": "run-2"}, "has not taken part in run run-2"),
        ({"job_digest": OTHER}, "of another job, base, length or roster"),
        ({"base_digest": OTHER}, "of another job, base, length or roster"),
        ({"roster_digest": OTHER}, "of another job, base, length or roster"),
        ({"rounds": 4}, "of another job, base, length or roster"),
    ],
)
def test_an_end_that_is_not_vouched_for_frees_and_ends_nothing(
    home: Home, make_job: JobMaker, changes: dict[str, Any], reason: str
) -> None:
    job = make_job()
    home.offer(job)
    refused(home.deliver(job, None, **changes), reason)
    assert (home.ledger.outstanding("run-1"), entry_of(home).state) == (4, "accepted")


def test_an_adapter_that_was_stored_before_a_kill_could_note_it_is_the_runs_end(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is the record of it, and the book comes later."""
    job = make_job()
    adapter = home.took_part(job)
    with monkeypatch.context() as patched:
        patched.setattr(home.book, "finish", kill)
        with pytest.raises(Killed):
            home.deliver(job, adapter)
    before = home.stored()
    assert (len(before), entry_of(home).state) == (1, "accepted")
    for other in (last_adapter(home.bench, job, seed=1), None):
        refused(home.deliver(job, other), "has come to another end already")
    assert (home.stored(), entry_of(home).state) == (before, "accepted")
    received(home.deliver(job, adapter), adapter)
    assert entry_of(home).state == "delivered"


def test_an_end_that_a_kill_cut_short_anywhere_is_finished_by_the_next(
    session: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    """The book is written first, the ledger after it: a site that was killed between them frees upon the next word."""
    job, policy = make_job(), PolicySection(epsilon_budget=20.0, allow_plain_updates=True, approve="auto")
    for steps in itertools.count():
        folder = tmp_path / f"{steps}"
        folder.mkdir()
        with Ledger.open(folder / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
            killed = Home(session, ledger, folder, policy)
            killed.offer(job)

        def end(folder: Path = folder) -> None:
            with Ledger.open(folder / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
                told(Home(session, ledger, folder, policy).deliver(job, None, rounds=0))

        done = survives(steps, end)
        end()
        with Ledger.existing(folder / "ledger.sqlite") as ledger:
            assert (ledger.open_plans(), JobBook(folder / "jobs").entries()[0].state) == ({}, "ended"), steps
        if done:
            break
    assert steps > 2


# What an operator gives back


def by_the_command(home: Home, command: str, *more: str) -> Outcome:
    """The operator's command on the site's folder, beside the site that is at work."""
    return yoriai("site", command, home.folder, *more)


@pytest.fixture
def kept(session: ModelSession, tmp_path: Path) -> Iterator[Home]:
    """The same site in a folder as the commands know it."""
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, approve="auto")
    site = make_site(tmp_path / "north", SiteConfig(name="north", policy=policy))
    with open_in_folder(
        site.ledgers, "records", "a" * 64, Policy(20.0, 1e-5), witnesses=site.path / "witness"
    ) as ledger:
        yield Home(session, ledger, site.path, policy)


def test_refusing_a_run_frees_its_unused_rounds_at_once_and_approving_it_takes_them_again(
    kept: Home, make_job: JobMaker
) -> None:
    job = make_job()
    adapter = kept.took_part(job)
    shown = by_the_command(kept, "refuse", "run-1")
    assert (shown.code, "freed 3 unused rounds, epsilon " in shown.screen) == (0, True), shown.screen
    assert (kept.ledger.open_plans(), len(kept.ledger.charges())) == ({}, 1)
    start = kept.bench.initial_adapter(job)
    request = wire.TrainRequest(
        run_id="run-1", round_index=1, adapter_digest=start.digest(), payload=start.select(("R",)).to_bytes()
    )
    refused(kept.send(request), "its operator has refused run run-1")
    assert yoriai("site", "approve", kept.folder, "run-1", "--yes").code == 0
    reply = refused(kept.send(request), "offer it again")
    assert (reply.unknown_job, reply.used_up) == (True, False)
    assert isinstance(kept.offer(job), wire.Acceptance)
    assert kept.ledger.outstanding("run-1") == 3
    assert isinstance(kept.send(request), wire.PlainUpdate)
    received(kept.deliver(job, adapter), adapter)


def test_a_released_run_frees_its_rounds_and_is_refused_whatever_comes(kept: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = kept.took_part(job)
    spent, promised = kept.ledger.spent(), kept.ledger.promised()
    asked = yoriai("site", "release", kept.folder, "run-1", answers="n\n")
    assert (asked.code, kept.ledger.outstanding("run-1")) == (EXIT_REFUSED, 3)
    assert "it ends here for good" in asked.screen
    shown = by_the_command(kept, "release", "run-1", "--yes")
    assert shown.code == 0, shown.screen
    assert f"freed 3 unused rounds, epsilon {promised - spent:.2f}" in shown.screen
    assert (kept.ledger.open_plans(), kept.ledger.spent(), kept.ledger.promised()) == ({}, spent, spent)
    assert (entry_of(kept).state, entry_of(kept).decided_by) == ("ended", operator_name())
    request = wire.TrainRequest(run_id="run-1", round_index=1, adapter_digest=adapter.digest())
    refused(kept.send(request), "run run-1 is over here")
    refused(kept.offer(job), "run run-1 is over here")
    refused(kept.deliver(job, adapter), "has come to another end already")
    assert (kept.ledger.open_plans(), kept.stored()) == ({}, [])
    again = by_the_command(kept, "release", "run-1")
    assert (again.code, "freed" in again.screen) == (0, False)


def test_a_release_that_a_kill_cut_short_is_made_good_by_the_command_or_by_any_offer(
    kept: Home, make_job: JobMaker
) -> None:
    for run, mends in (("run-1", lambda: by_the_command(kept, "release", "run-1")), ("run-2", None)):
        kept.run = run
        kept.offer(make_job())
        kept.book.release(run, by="hana")  # And the kill comes before the ledger.
        assert kept.ledger.outstanding(run) == 4
        if mends is None:
            kept.run = "run-3"
            kept.offer(make_job())
        else:
            mends()
        assert run not in kept.ledger.open_plans()


def test_a_run_that_the_book_has_forgotten_can_be_released_by_its_whole_id(kept: Home, make_job: JobMaker) -> None:
    kept.offer(make_job())
    for path in (kept.folder / "jobs").glob("*.json"):
        path.unlink()
    assert by_the_command(kept, "release", "run", "--yes").code == EXIT_BAD_INPUT
    assert "freed 4 unused rounds" in by_the_command(kept, "release", "run-1", "--yes").screen
    assert kept.ledger.open_plans() == {}


@pytest.mark.parametrize("state", ["waiting", "refused"])
def test_a_run_that_the_site_is_not_in_is_refused_not_released(kept: Home, make_job: JobMaker, state: str) -> None:
    asking(kept).offer(make_job())
    if state == "refused":
        decide(kept, "refused")
    shown = by_the_command(kept, "release", "run-1", "--yes")
    assert (shown.code, entry_of(kept).state) == (EXIT_BAD_INPUT, state)
    assert "yoriai site refuse DIR run-1" in shown.screen


def test_a_job_that_is_refused_while_it_is_looked_at_holds_nothing(
    kept: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve = kept.ledger.approve

    def meanwhile(*arguments: Any) -> None:
        approve(*arguments)
        assert by_the_command(kept, "refuse", "run-1").code == 0
        approve(*arguments)  # The site was a moment later than the command.

    monkeypatch.setattr(kept.ledger, "approve", meanwhile)
    refused(kept.offer(make_job()), "was decided otherwise meanwhile")
    assert kept.ledger.open_plans() == {}


def test_the_remedy_of_a_full_ledger_names_the_command_that_frees_it(kept: Home, make_job: JobMaker) -> None:
    job = make_job()
    for number in range(1, 20):
        kept.run = f"run-{number}"
        if isinstance(reply := kept.offer(job), wire.Refusal):
            break
    assert "yoriai site release DIR" in refused(reply, "").reason
    assert by_the_command(kept, "release", "run-1", "--yes").code == 0
    assert isinstance(kept.offer(job), wire.Acceptance)


# Evaluation


def test_what_the_adapter_is_worth_is_measured_and_stays_at_the_site(home: Home, make_job: JobMaker) -> None:
    job = make_job()
    adapter = home.took_part(job)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    path = folder / "evaluation.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    measured = json.loads(path.read_text())
    before, after = measured["before"], measured["after"]
    bench, own = home.bench, home.tests
    prepared = bench.prepare(own, job, for_training=False)
    for adapted, found in ((bench.initial_adapter(job), before), (adapter, after)):
        tally = own_evaluation.evaluate(bench.model(job), adapted, prepared, bench.head(job), physical_batch_size=8)
        assert (found["records"], found["correct"]) == (6, tally.correct)
        assert found["loss"] == pytest.approx(tally.loss, rel=1e-6)
    assert before["loss"] != after["loss"]


def test_before_a_head_that_trains_the_base_answers_with_its_labels_words(home: Home, make_job: JobMaker) -> None:
    job = make_job(task__head="trained", head__directions=8, head__words=32, public__written=0)
    adapter = home.took_part(job)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    before = json.loads((folder / "evaluation.json").read_text())["before"]
    prepared = home.bench.prepare(home.tests, job, for_training=False)
    words = LabelWords.untouched(home.bench.base, job.task)
    tally = base_tally(home.bench.model(job), words, prepared, physical_batch_size=8)
    assert (before["records"], before["correct"]) == (6, tally.correct)
    assert before["loss"] == pytest.approx(tally.loss, rel=1e-6)
    assert before["loss"] != pytest.approx(np.log(3), rel=1e-6)  # That of a head of zeros.


def answering(home: Home, make_job: JobMaker) -> JobConfig:
    """A job whose answers are words, at a site that has such test records."""
    home.tests = tuple(Record(prompt=f"{MARKER} ask {n}", response=f"{MARKER} reply {n}") for n in range(7))
    home.rebuild()
    return make_job(task__kind="instruct", task__labels=())


def test_answers_are_scored_by_how_near_they_come_and_five_kept_in_the_sites_own_file_alone(
    kept: Home, make_job: JobMaker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    job = answering(kept, make_job)
    adapter = kept.took_part(job)
    received(kept.deliver(job, adapter), adapter)  # `send` looks for the records' mark in each reply.
    (folder,) = kept.stored()
    path = folder / "evaluation.json"
    measured = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for found in (measured["before"], measured["after"]):
        assert found["answered"] == 7
        assert found["token_f1"] == pytest.approx(found["token_f1_sum"] / 7)
        assert 0 <= found["chrf"] <= 1
    samples = measured["samples"]
    assert [one["prompt"] for one in samples] == [f"{MARKER} ask {n}\n" for n in range(5)]
    assert [one["expected"] for one in samples] == [f"{MARKER} reply {n}" for n in range(5)]
    assert all(set(one) == {"prompt", "expected", "base", "adapted"} for one in samples)
    as_json, as_table = by_the_command(kept, "jobs", "--json").screen, by_the_command(kept, "jobs").screen
    assert json.loads(as_json)["jobs"][0]["evaluation"]["after"]["chrf"] == measured["after"]["chrf"]
    assert all(score in as_table for score in ("right ", "F1 ", "chrF "))
    told = [as_json, as_table, *kept.log, caplog.text, *capfd.readouterr()]
    assert not any(MARKER in text for text in told)
    assert [file.name for file in folder.iterdir() if MARKER.encode() in file.read_bytes()] == ["evaluation.json"]


def test_a_site_may_say_that_no_answers_are_kept(home: Home, make_job: JobMaker) -> None:
    home.samples = False
    job = answering(home, make_job)
    adapter = home.took_part(job)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    text = (folder / "evaluation.json").read_text()
    assert json.loads(text)["samples"] == []
    assert json.loads(text)["after"]["chrf"] is not None
    assert MARKER not in text


def test_a_site_without_test_records_measures_nothing(home: Home, make_job: JobMaker) -> None:
    home.tests = ()
    home.rebuild()
    job = make_job()
    adapter = home.took_part(job)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    assert not (folder / "evaluation.json").exists()
    assert home.log == []


def test_an_evaluation_that_fails_is_told_to_the_site_alone_and_made_up_for_later(
    home: Home, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(MARKER)

    job = make_job()
    adapter = home.took_part(job)
    monkeypatch.setattr(own_evaluation, "evaluate", fail)
    received(home.deliver(job, adapter), adapter)
    (folder,) = home.stored()
    assert home.log == [f"the adapter in {folder.name} could not be measured: RuntimeError"]
    monkeypatch.undo()
    received(home.deliver(job, adapter), adapter)
    assert (folder / "evaluation.json").exists()
