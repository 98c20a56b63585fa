"""The coordinator's signature under a message, and the memory of the numbers that a site has taken."""

import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.delivery import DeliveryStatement, sign_delivery
from yoriai.privacy.statements.instruction import (
    InstructionStatement,
    SequenceMemory,
    digest_of,
    read_instruction,
    sign_instruction,
)

NOW = datetime(2026, 11, 29, tzinfo=UTC)
KEY = SigningKey.generate()
IDENTITY, OTHER = b"\1" * 32, b"\2" * 32
MESSAGE = b"train"
FIELDS: dict[str, Any] = {
    "federation": "miyagi",
    "site": "north",
    "run_id": "run-1",
    "sequence": 7,
    "message_digest": digest_of(MESSAGE),
}


def statement(**changes: Any) -> InstructionStatement:
    return InstructionStatement(**{**FIELDS, **changes})


def checked(found: InstructionStatement, message: bytes = MESSAGE) -> None:
    found.check(message, federation="miyagi", site="north", now=NOW)


def test_a_statement_comes_back_as_it_was_signed() -> None:
    data = sign_instruction(KEY, statement())
    assert data.splitlines()[0] == b"yoriai-instruction-1"
    assert read_instruction(data, KEY.public_key) == statement()
    checked(statement())


def test_another_keys_statement_is_refused() -> None:
    with pytest.raises(IdentityError, match="does not bear the right signature"):
        read_instruction(sign_instruction(SigningKey.generate(), statement()), KEY.public_key)


def test_a_bit_changed_anywhere_is_found() -> None:
    data = sign_instruction(KEY, statement())
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_instruction(bytes(changed), KEY.public_key)


def test_a_signature_for_a_delivery_is_none_for_a_message() -> None:
    delivered = sign_delivery(KEY, DeliveryStatement("miyagi", "run-1", "0" * 64, "0" * 64, "", 0, ""))
    with pytest.raises(IdentityError, match="another version or kind"):
        read_instruction(delivered, KEY.public_key)
    with pytest.raises(IdentityError, match="right signature"):
        read_instruction(delivered.replace(b"yoriai-delivery-1", b"yoriai-instruction-1"), KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": 7.0},
        {"sequence": True},
        {"run_id": ""},
        {"run_id": "x" * 129},
        {"run_id": 1},
        {"message_digest": "0" * 63},
        {"message_digest": "A" * 64},
        {"message_digest": None},
        {"site": "../north"},
        {"federation": ""},
    ],
)
def test_values_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        statement(**change)


@pytest.mark.parametrize("change", [{"run_id": "x"}, {"run_id": "x" * 128}, {"sequence": 1}, {"sequence": 2**63 - 1}])
def test_values_at_the_ends_of_their_ranges_are_taken(change: dict[str, Any]) -> None:
    assert read_instruction(sign_instruction(KEY, statement(**change)), KEY.public_key) == statement(**change)


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"null", b"{" * 100_000, b'{"federation":"miyagi"}', b"\xff"])
def test_a_signed_payload_that_is_no_statement_is_refused(payload: bytes) -> None:
    signature = KEY.sign(b"yoriai/instruction/1", payload).hex().encode()
    with pytest.raises(IdentityError, match="malformed"):
        read_instruction(b"\n".join([b"yoriai-instruction-1", signature, payload]), KEY.public_key)


def test_a_signed_statement_with_surplus_content_is_refused() -> None:
    payload = json.dumps(FIELDS).encode()  # Not in the one encoding: with spaces.
    signature = KEY.sign(b"yoriai/instruction/1", payload).hex().encode()
    with pytest.raises(IdentityError, match="malformed"):
        read_instruction(b"\n".join([b"yoriai-instruction-1", signature, payload]), KEY.public_key)


def test_it_holds_for_one_message_one_site_and_one_federation() -> None:
    with pytest.raises(IdentityError, match="not the one that its coordinator signed"):
        checked(statement(), MESSAGE + b"x")
    with pytest.raises(IdentityError, match="addressed to another site; found south; expected north"):
        checked(statement(site="south"))
    with pytest.raises(IdentityError, match="another federation's coordinator; expected miyagi"):
        checked(statement(federation="iwate"))


def test_a_number_from_the_far_future_is_refused_so_that_a_clock_that_was_wrong_locks_nobody_out() -> None:
    def number(at: datetime) -> int:
        return int(at.timestamp() * 1e9)

    checked(statement(sequence=number(NOW + timedelta(hours=23))))
    with pytest.raises(IdentityError, match=r"lies in the future; .* set the clocks right"):
        checked(statement(sequence=number(NOW + timedelta(hours=25))))


# The memory.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust" / "coordinator.seen"


@pytest.mark.parametrize("durable", [True, False])
def test_a_number_is_taken_once_and_none_below_it_afterwards(path: Path, durable: bool) -> None:
    memory = SequenceMemory(path if durable else None)
    memory.accept(IDENTITY, 5)
    for again in (5, 4, 1):
        with pytest.raises(IdentityError, match="taken already, or is older"):
            memory.accept(IDENTITY, again)
    memory.accept(IDENTITY, 6)


def test_a_number_is_remembered_after_a_restart(path: Path) -> None:
    SequenceMemory(path).accept(IDENTITY, 5)
    with pytest.raises(IdentityError, match="taken already"):
        SequenceMemory(path).accept(IDENTITY, 5)
    assert path.stat().st_mode & 0o077 == 0


def test_each_coordinators_key_counts_for_itself(path: Path) -> None:
    memory = SequenceMemory(path)
    memory.accept(IDENTITY, 5)
    memory.accept(OTHER, 1)
    for identity, number in ((IDENTITY, 5), (OTHER, 1)):
        with pytest.raises(IdentityError):
            memory.accept(identity, number)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"x": 1}', json.dumps({"0" * 64: "5"}), json.dumps({"0" * 64: 1.5})]
)
def test_a_damaged_memory_takes_nothing_and_says_what_to_do(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StorageError, match=r"coordinator\.seen, which remembers .* is damaged; .* move the file away"):
        SequenceMemory(path).accept(IDENTITY, 9)
    assert path.read_text() == content


def test_a_number_that_cannot_be_written_is_not_taken(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()  # A folder where the file should be: there it is, and cannot be read.
    with pytest.raises(StorageError):
        SequenceMemory(path).accept(IDENTITY, 5)


def _accept_at(path: Path, barrier: Barrier, results: Any) -> None:
    barrier.wait()
    try:
        SequenceMemory(path).accept(IDENTITY, 5)
        results.put(True)
    except IdentityError:
        results.put(False)


def test_of_two_processes_that_bring_one_number_at_once_one_is_refused(tmp_path: Path) -> None:
    made = multiprocessing.get_context("fork")
    for number in range(20):
        barrier, results = made.Barrier(2), made.Queue()
        two = [
            made.Process(target=_accept_at, args=(tmp_path / f"{number}" / "seen", barrier, results)) for _ in range(2)
        ]
        for process in two:
            process.start()
        assert sorted(results.get() for _ in two) == [False, True]
        for process in two:
            process.join()
