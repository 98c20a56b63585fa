"""A version comes to a site: whose word it takes, what it goes back to, which base it fits, and the step into use."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.client.conftest import JobMaker
from tests.client.exports import KNOWN, NOW, Export, trust
from tests.coordinators import Known
from tests.crashes import survives
from yoriai import wire
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.channel_inbox import ChannelInbox
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.pulling import pull
from yoriai.client.versions.version_bundle import read_bundle
from yoriai.errors import AdapterError, ConfigError, IdentityError, PolicyError, YoriaiError
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.version_statement import (
    VersionStatement,
)
from yoriai.strategies.adapter import AdapterState


@pytest.fixture
def export(session: ModelSession, make_job: JobMaker) -> Export:
    return Export(session, make_job())


@pytest.fixture
def place(tmp_path: Path) -> ChannelPlace:
    return ChannelPlace(tmp_path / "channels", "production")


def refused(data: bytes, kind: type[YoriaiError], match: str, channel: str = "production") -> None:
    with pytest.raises(kind, match=match):
        read_bundle(data, trust(), channel)


def test_a_version_that_holds_comes_into_use_and_answers(
    export: Export, place: ChannelPlace, session: ModelSession
) -> None:
    assert pull(export.bundle(), place, session)
    assert {path.name for path in place.link.iterdir()} >= {
        *("task.json", "adapter_config.json", "adapter_model.safetensors", "version.safetensors"),
        *("statement", "promotion", "coordinator.cert"),
    }
    assert AdapterState.from_bytes((place.link / "version.safetensors").read_bytes()) == export.adapter
    assert json.loads((place.link / "task.json").read_text())["base"]["digest"] == session.base.digest
    assert place.folder_of(1).stat().st_mode & 0o777 == 0o700


# Whose word.


def test_another_keys_signatures_are_refused(export: Export) -> None:
    refused(export.file(key=SigningKey.generate()), IdentityError, "right signature")


@pytest.mark.parametrize("part", ["promotion", "statement"])
def test_each_statement_is_verified(export: Export, part: str) -> None:
    good = wire.decode(export.file())
    assert isinstance(good, wire.VersionFile)
    text: str = getattr(good, part)
    forged = good.model_copy(update={part: text.replace('"run-1"', '"run-2"')})
    refused(wire.encode(forged), IdentityError, "right signature")


def test_a_certificate_of_another_ca_and_one_that_has_expired_are_refused(export: Export) -> None:
    refused(export.file(certificate=Known().certificate().decode()), IdentityError, "right signature")
    short = KNOWN.certificate(valid_for=timedelta(minutes=5)).decode()
    with pytest.raises(IdentityError, match="has expired"):
        read_bundle(export.file(certificate=short), trust(NOW + timedelta(hours=1)), "production")


def test_a_version_of_another_channel_is_refused(export: Export) -> None:
    refused(export.file(), PolicyError, "another channel", channel="staging")


def test_statements_about_two_versions_are_refused(export: Export) -> None:
    refused(export.file(promotion=export.promotion(run_id="run-2")), PolicyError, "two versions")
    refused(export.file(promotion=export.promotion(adapter_digest="0" * 64)), PolicyError, "two versions")


def test_another_federations_version_is_refused(export: Export) -> None:
    refused(export.file(export.version(federation="osaka")), IdentityError, "another federation")


def test_another_adapter_and_another_job_are_refused(export: Export, session: ModelSession) -> None:
    other = Export(session, export.job, seed=1)
    refused(export.file(payload=other.adapter.to_bytes()), AdapterError, "not the one of the coordinator's statement")
    refused(export.file(export.version(job_digest="0" * 64)), PolicyError, "the job is not the one")


def test_what_is_no_versions_file_is_refused(export: Export) -> None:
    refused(b"nothing", ConfigError, "no version's file")
    refused(wire.encode(wire.Acceptance(run_id="r", site="north")), ConfigError, "no version's file")
    refused(export.file(job={"schema": 1}), ConfigError, "another version of Yoriai")


# What it goes back to.


def chain(export: Export, length: int) -> list[VersionStatement]:
    """Versions before one, its parent first; the last one began anew."""
    digests = [f"{n:064x}" for n in range(1, length + 1)]
    parents = [*digests[1:], ""]
    pairs = zip(digests, parents, strict=True)
    return [
        export.version(adapter_digest=digest, parent=parent, run_id=f"old-{digest[-2:]}") for digest, parent in pairs
    ]


def test_a_whole_lineage_is_taken_with_all_its_statements(
    export: Export, place: ChannelPlace, session: ModelSession
) -> None:
    older = chain(export, 2)
    child = export.version(parent=older[0].adapter_digest)
    bundle = read_bundle(export.file(child, lineage=older), trust(), "production")
    assert bundle.lineage == tuple(older)
    pull(bundle, place, session)
    assert {"lineage.1", "lineage.2"} <= {path.name for path in place.link.iterdir()}


@pytest.mark.parametrize("kept", [(), (0,), (1,), (1, 0)])
def test_a_lineage_with_a_gap_is_refused(export: Export, kept: tuple[int, ...]) -> None:
    older = chain(export, 2)
    child = export.version(parent=older[0].adapter_digest)
    refused(export.file(child, lineage=[older[n] for n in kept]), PolicyError, "is not there, or not on the same base")


def test_a_lineage_that_leads_to_nothing_of_the_versions_is_refused(export: Export) -> None:
    refused(export.file(lineage=chain(export, 1)), PolicyError, "goes back to")


def test_a_lineage_on_another_base_is_refused(export: Export) -> None:
    (older,) = chain(export, 1)
    child = export.version(parent=older.adapter_digest)
    refused(export.file(child, lineage=[replace(older, base_digest="0" * 64)]), PolicyError, "not on the same base")


# The base.


def test_a_version_of_another_base_is_refused_and_nothing_is_written(
    session: ModelSession, make_job: JobMaker, place: ChannelPlace
) -> None:
    export = Export(session, make_job())
    export.base = "0" * 64
    with pytest.raises(PolicyError, match="another base model"):
        pull(export.bundle(), place, session)
    assert place.current() is None
    assert not place.link.parent.exists()


# Into use, and back.


def test_the_last_one_is_kept_and_a_rollback_goes_back_to_it(
    export: Export, place: ChannelPlace, session: ModelSession
) -> None:
    for number in (1, 2, 5):
        pull(export.bundle(number), place, session)
    assert place.current() == 5
    assert sorted(path.name for path in place.link.parent.iterdir()) == ["production", "production.2", "production.5"]
    assert place.roll_back() == 2
    assert (place.current(), os.readlink(place.link)) == (2, "production.2")
    with pytest.raises(ConfigError, match="no version before the one in use"):
        place.roll_back()


def test_an_older_version_is_not_shown_again_and_the_newest_can_be_after_a_rollback(
    export: Export, place: ChannelPlace, session: ModelSession
) -> None:
    for number in (1, 2):
        pull(export.bundle(number), place, session)
    place.roll_back()
    with pytest.raises(PolicyError, match="a later version of production already"):
        pull(export.bundle(1), place, session)
    assert not pull(export.bundle(2), place, session)  # It is here already.
    assert place.current() == 2


def test_a_number_that_a_restored_server_gives_a_second_time_never_brings_the_first_version_back(
    export: Export, place: ChannelPlace, session: ModelSession
) -> None:
    for number in (1, 2):
        pull(export.bundle(number), place, session)
    other = Export(session, export.job, seed=1)
    with pytest.raises(PolicyError, match="under number 2"):
        pull(other.bundle(2), place, session)
    place.roll_back()
    with pytest.raises(PolicyError, match="under number 2"):
        pull(other.bundle(2), place, session)
    assert pull(other.bundle(2), place, session, may_be_older=True)
    assert place.current() == 2
    assert AdapterState.from_bytes((place.link / "version.safetensors").read_bytes()) == other.adapter
    assert place.roll_back() == 1


def test_a_rollback_without_a_version_says_so(place: ChannelPlace) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        place.roll_back()


def test_channels_do_not_touch_each_other(export: Export, place: ChannelPlace, session: ModelSession) -> None:
    pull(export.bundle(3), place, session)
    staging = ChannelPlace(place.link.parent, "staging")
    data = export.file(promotion=export.promotion(channel="staging", number=1))
    pull(read_bundle(data, trust(), "staging"), staging, session)
    assert (place.current(), staging.current()) == (3, 1)


def test_the_link_leads_to_a_version_after_every_step_of_a_swap(
    export: Export, place: ChannelPlace, session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        pull(export.bundle(number), place, session)
    steps = []

    def watched(name: str) -> None:
        does = getattr(Path, name)

        def step(path: Path, *arguments: Any, **more: Any) -> Any:
            done = does(path, *arguments, **more)
            steps.append((name, place.link.exists()))
            return done

        monkeypatch.setattr(Path, name, step)

    for name in ("unlink", "symlink_to", "replace", "rename"):
        watched(name)
    place.roll_back()
    assert len(steps) >= 2
    assert [name for name, is_there in steps if not is_there] == []


def test_a_crash_at_any_write_leaves_the_old_version_in_use_or_the_new_one_whole(
    export: Export, place: ChannelPlace, session: ModelSession, tmp_path: Path
) -> None:
    pull(export.bundle(1), place, session)
    bundle, seen, steps, before = export.bundle(2), set(), 0, place.link.parent
    while True:
        shutil.copytree(before, tmp_path / str(steps), symlinks=True)
        one = ChannelPlace(tmp_path / str(steps), "production")
        is_done = survives(steps, pull, bundle, one, session)
        seen.add((is_done, one.current()))
        assert AdapterState.from_bytes((one.link / "version.safetensors").read_bytes()) == export.adapter
        pull(bundle, one, session)  # What a kill left undone, the next one does.
        assert (one.current(), list(one.link.parent.glob(".*"))) == (2, [])
        if is_done:
            break
        steps += 1
    assert seen == {(False, 1), (False, 2), (True, 2)}


# What the server sends.


@dataclass
class Sent:
    """A site that takes what the server's channels hold, and the coordinator's side of it."""

    export: Export
    inbox: ChannelInbox
    place: ChannelPlace

    def send(self, number: int = 1, **changes: Any) -> wire.ChannelState:
        data = self.export.file(**{"promotion": self.export.promotion(number=number), **changes})
        message = wire.decode(data)
        assert isinstance(message, wire.VersionFile)
        return self.inbox.receive(message)

    def kept(self) -> list[str]:
        folder = self.place.link.parent
        return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


@pytest.fixture
def sent(export: Export, place: ChannelPlace, session: ModelSession) -> Sent:
    inbox = ChannelInbox("north", place.link.parent, base_digest=session.base.digest, trust=trust)
    return Sent(export, inbox, place)


def test_what_is_sent_waits_and_comes_into_use_only_by_a_pull(sent: Sent, session: ModelSession) -> None:
    state = sent.send(4)
    assert (state.delivered, state.in_use, sent.kept()) == (4, 0, ["production.4.version"])
    data = sent.place.delivered_file(4).read_bytes()
    assert pull(read_bundle(data, trust(), "production"), sent.place, session)
    asked = sent.inbox.answer(wire.ChannelQuestion(run_id="run-1", channel="production"))
    assert (asked.delivered, asked.in_use) == (4, 4)


def test_only_the_newest_that_was_sent_is_kept(sent: Sent) -> None:
    for number in (1, 3):
        sent.send(number)
    assert sent.kept() == ["production.3.version"]


def test_the_same_sent_again_changes_nothing_even_under_a_renewed_certificate(sent: Sent) -> None:
    sent.send(2)
    before = sent.place.delivered_file(2).read_bytes()
    assert sent.send(2, certificate=KNOWN.certificate().decode()).delivered == 2
    assert sent.place.delivered_file(2).read_bytes() == before


def test_older_than_what_was_sent_or_taken_is_refused(sent: Sent, session: ModelSession) -> None:
    sent.send(5)
    with pytest.raises(PolicyError, match="delivered a later version already"):
        sent.send(4)
    pull(sent.export.bundle(9), sent.place, session)
    with pytest.raises(PolicyError, match="a later version of production already"):
        sent.send(7)
    assert sent.kept() == ["production", "production.5.version", "production.9"]


def test_a_number_has_one_version(sent: Sent) -> None:
    sent.send(2)
    with pytest.raises(PolicyError, match="another version under number 2"):
        sent.send(promotion=sent.export.promotion(number=2, forced=True))


HOSTILE: dict[str, tuple[dict[str, Any], type[YoriaiError]]] = {
    "another key": ({"key": SigningKey.generate()}, IdentityError),
    "another payload": ({"payload": b"YORI" * 9}, YoriaiError),
    "no job": ({"job": {"name": "x"}}, YoriaiError),
    "no statement": ({"statement": ""}, IdentityError),
    "no certificate": ({"certificate": ""}, IdentityError),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_of_what_does_not_hold_nothing_is_kept(what: str, sent: Sent) -> None:
    changes, kind = HOSTILE[what]
    with pytest.raises(kind):
        sent.send(**changes)
    assert sent.kept() == []


def test_a_version_of_another_federation_or_base_is_not_kept(sent: Sent) -> None:
    with pytest.raises(IdentityError, match="another federation"):
        sent.send(promotion=sent.export.promotion(federation="akita"))
    with pytest.raises(IdentityError, match="another federation"):
        sent.send(version=sent.export.version(federation="akita"))
    sent.export.base = "0" * 64
    with pytest.raises(PolicyError, match="another base model"):
        sent.send()
    assert sent.kept() == []


def test_a_disk_without_room_keeps_nothing(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(PolicyError, match="too little room"):
        sent.send()
    assert sent.kept() == []


def test_a_crash_at_any_write_of_what_is_sent_leaves_the_old_one_or_the_new_one_whole(
    sent: Sent, tmp_path: Path, session: ModelSession
) -> None:
    sent.send(1)
    steps, seen = 0, set()
    while True:
        shutil.copytree(sent.place.link.parent, tmp_path / str(steps))
        place = ChannelPlace(tmp_path / str(steps), "production")
        inbox = ChannelInbox("north", tmp_path / str(steps), base_digest=session.base.digest, trust=trust)
        message = wire.decode(sent.export.file(promotion=sent.export.promotion(number=2)))
        assert isinstance(message, wire.VersionFile)
        is_done = survives(steps, inbox.receive, message)
        number = place.delivered()
        assert number is not None
        assert read_bundle(place.delivered_file(number).read_bytes(), trust()).promotion.number == number
        seen.add((is_done, number))
        inbox.receive(message)
        assert place.delivered() == 2
        if is_done:
            break
        steps += 1
    assert seen == {(False, 1), (False, 2), (True, 2)}


def test_a_question_about_no_channel_is_refused(sent: Sent) -> None:
    with pytest.raises(PolicyError, match="no such channel"):
        sent.inbox.answer(wire.ChannelQuestion(run_id="run-1", channel="../adapters"))


def test_an_older_version_comes_into_use_at_the_operators_word_and_the_later_one_is_forgotten(
    sent: Sent, session: ModelSession
) -> None:
    for number in (3, 8):
        pull(sent.export.bundle(number), sent.place, session)
    sent.send(9)
    pull(sent.export.bundle(5), sent.place, session, may_be_older=True)
    assert (sent.place.current(), sent.kept()) == (5, ["production", "production.5"])
    assert sent.send(6).delivered == 6
