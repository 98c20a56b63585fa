"""A second memory of where a ledger's chain ends, so that a file restored from an old backup is found out.

    second place   a small file with the last row's number and hash; beside the ledger unless the operator names a path
    commitment     the last row's hash, signed by the site, which the coordinator keeps and gives back

The second place is written after a row is durable and before the caller of the ledger goes on, under the ledger's own
write lock. A crash in between leaves it behind the ledger; it is never ahead of it. So a ledger that lacks the row that
the second place names, or has another one in its stead, is not the newest.

A commitment shows the coordinator a hash that tells nothing of the rows, not even how many there are: the first row
holds random bits. It binds the site to all rows up to there.

A second place that is lost, with its disk say, is begun anew by the operator (`Ledger.renew_witness`): their word, and
the reason, are a row of the chain. From then on it guards what comes; an older copy that was put in at that moment is
found out by the commitment alone.

Not covered: who restores ledger and second place together (keep it on another disk), and a coordinator that forgets
or gives back an old commitment at the same time.
"""

import json
import os
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError, LedgerError
from yoriai.privacy.identity.signing_key import SigningKey, verify
from yoriai.privacy.ledger.book import Head
from yoriai.privacy.ledger.file import step
from yoriai.system.files import sync

_DOMAIN = b"yoriai/ledger-head/1"
_HASH_CHARS = 64
_COMMITMENT_CHARS = _HASH_CHARS + 128  # Hash and signature, both in hexadecimal.
_LOST = "; where it is lost, the data set's budget counts as spent and it must not be trained on"
_AGAIN = "; where it alone is lost, and the ledger is certainly the newest: yoriai site witness DIR --reason TEXT"


def second_place(ledger: Path) -> Path:
    """Where the head is kept unless the operator says otherwise."""
    return ledger.with_name(f"{ledger.name}.head")


def read_head(place: Path) -> Head | None:
    """The head that was kept; None if there is no such file.

    Raises:
        LedgerError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(place.read_bytes())
        head = Head(values["number"], values["hash"])
        if type(head.number) is not int or not _is_hex(head.hash, _HASH_CHARS) or len(values) != 2:
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise LedgerError(
            f"{place.name}, which keeps the end of a ledger's chain, is damaged",
            remedy="put the newest copy of this file back" + _AGAIN,
        ) from None
    return head


def write_head(place: Path, head: Head, *, synced: bool = True) -> None:
    """Replace the head that is kept, atomically and durably. The caller holds the ledger's write lock.

    Args:
        synced: as `LedgerStore.open`.
    """
    data = json.dumps({"number": head.number, "hash": head.hash}).encode()
    place.parent.mkdir(parents=True, exist_ok=True)
    if not synced:
        _write_over(place, data)
        return
    draft = place.with_name(f".{place.name}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        step("head written")
        file.flush()
        os.fsync(file.fileno())
    step("head synced")
    draft.replace(place)
    step("head in place")
    sync(place.parent)
    step("head durable")


def _write_over(place: Path, data: bytes) -> None:
    """Write a head over the one before, which is no longer, in one call: a kill leaves the one or the other.

    A rename over a file makes some file systems write the new one out at once, which takes milliseconds.
    """
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def check_head(kept: Head | None, found: str | None, last: int, ledger: Path) -> None:
    """Refuse a ledger that is behind the head that was kept of it.

    Args:
        kept: from the second place, read before the ledger was.
        found: the hash in the ledger's row of that number.
        last: the ledger's last row.

    Raises:
        LedgerError: the ledger is an older copy or another history, or nothing was kept of it.
    """
    if kept is None and last > 1:  # Only between the making of a ledger and its second place is there none.
        raise LedgerError(
            f"ledger {ledger.name} has {last} rows, and its second place is gone",
            expected=f"the end of its chain in {second_place(ledger).name}, or where the operator keeps it",
            remedy="put that file back" + _AGAIN,
        )
    if kept is not None and found != kept.hash:
        what = f"row {kept.number}: it is not the row that was written there"
        if kept.number > last:
            what = "which is an old copy or was cut: rows that were written are missing"
        raise LedgerError(
            f"ledger {ledger.name}, {what}",
            found=f"{last} rows",
            expected=f"row {kept.number} as its second place remembers it",
            remedy="put the newest file back" + _LOST,
        )


def must_be_lost(place: Path, ledger: Path) -> None:
    """Refuse to begin a second place anew that is there and tells where the ledger's chain ended.

    Raises:
        LedgerError: it can be read.
    """
    try:
        kept = read_head(place)
    except LedgerError:  # Damaged: as good as gone.
        return
    if kept is not None:
        raise LedgerError(
            f"the second place of ledger {ledger.name} is not lost",
            found=f"{place.name} with the hash of row {kept.number}",
            remedy="what it says holds; a ledger that lacks that row is an old copy",
        )


def must_be_new(ledger: Path, place: Path) -> None:
    """Refuse to start a ledger anew where one was.

    Raises:
        LedgerError: a second place is there, and no ledger.
    """
    # A ledger is there before its second place: seen the other way round, another process may be making both.
    if read_head(place) is not None and not ledger.is_file():
        raise LedgerError(
            f"ledger {ledger.name} is gone, and its second place {place.name} is still there",
            remedy="put the ledger back" + _LOST,
        )


def commit(row_hash: str, site: str, key: SigningKey) -> str:
    """A site's signed commitment to its ledger up to the row with this hash, as text for a message."""
    return row_hash + key.sign(_DOMAIN, _signed(row_hash, site)).hex()


def committed(commitment: str, site: str, public_key: Ed25519PublicKey) -> str:
    """The hash that a site committed to.

    Raises:
        IdentityError: it is malformed, or not signed by this key for this site.
    """
    if not _is_hex(commitment, _COMMITMENT_CHARS):
        raise IdentityError("a ledger's commitment is malformed", expected=f"{_COMMITMENT_CHARS} hexadecimal digits")
    row_hash = commitment[:_HASH_CHARS]
    verify(public_key, _DOMAIN, _signed(row_hash, site), bytes.fromhex(commitment[_HASH_CHARS:]))
    return row_hash


def _signed(row_hash: str, site: str) -> bytes:
    return bytes.fromhex(row_hash) + sha256(site.encode()).digest()


def _is_hex(text: object, length: int) -> bool:
    return isinstance(text, str) and len(text) == length and not set(text) - set("0123456789abcdef")
