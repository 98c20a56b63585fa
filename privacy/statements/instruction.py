"""What a coordinator signs about every message to a site, so that a site acts on nobody else's, and on none twice.

    coordinator -> site    the statement: federation, site, run, sequence number and the message's digest

Laid out as in `signed_file.py`, under the key of the coordinator's certificate (`coordinator_identity.py`). The message
travels behind the statement as it is, so that a large one is hashed once and never copied into a signed text.

Sequence numbers only grow, for each coordinator's key: nanoseconds since the epoch, or one more than the last where the
clock stands still. A coordinator that is started anew therefore goes on above its earlier ones without remembering
them. A site keeps the highest that it has taken (`SequenceMemory`), durably before it acts.

Covers: a message of somebody else, of another federation, for another site, changed on the way, or shown a second time.
Does not cover: a message that is kept back; an order of messages that the coordinator has signed itself; a coordinator
whose clock was set back, which is refused until it has caught up; a site whose folder was restored from an older copy,
which takes once more what it took since (what that costs is in its ledger, which finds such a copy out).
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import check_name
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.system.files import PRIVATE, locked_beside, read_carried, write_atomically

_FORMAT = SignedFormat(
    "the coordinator's signature under a message", "instruction", 1, remedy="have the coordinator send it again"
)
_LONGEST_RUN_ID = 128
_LARGEST_SEQUENCE = 2**63
_DIGEST = re.compile(r"[0-9a-f]{64}")
# A number from the far future, of a clock that was wrong once, would lock its coordinator out for as long.
_AHEAD = timedelta(days=1)


@dataclass(frozen=True)
class InstructionStatement:
    """One message to one site as the coordinator vouches for it.

    Attributes:
        federation: whose coordinator says so.
        site: for whom the message is.
        run_id: the run that it is of, 1 to 128 characters.
        sequence: higher than in any earlier message of this coordinator's key to this site; 1 to 2^63 - 1.
        message_digest: SHA-256 of the encoded message, in hexadecimal.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    site: str
    run_id: str
    sequence: int
    message_digest: str

    def __post_init__(self) -> None:
        check_name(self.federation)
        check_name(self.site)
        if type(self.run_id) is not str or not 1 <= len(self.run_id) <= _LONGEST_RUN_ID:
            raise _FORMAT.malformed()
        if type(self.sequence) is not int or not 1 <= self.sequence < _LARGEST_SEQUENCE:
            raise _FORMAT.malformed()
        if type(self.message_digest) is not str or not _DIGEST.fullmatch(self.message_digest):
            raise _FORMAT.malformed()

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(asdict(self))

    def check(self, message: bytes, *, federation: str, site: str, now: datetime) -> None:
        """See that this is the statement under a message, for this site, and of about now or before.

        Raises:
            IdentityError: otherwise.
        """
        if self.federation != federation:
            raise IdentityError("a message is of another federation's coordinator", expected=federation)
        if self.site != site:
            raise IdentityError("a message is addressed to another site", found=self.site, expected=site)
        if self.message_digest != digest_of(message):
            raise IdentityError("a message is not the one that its coordinator signed", remedy=_FORMAT.remedy)
        if self.sequence > ((now + _AHEAD).timestamp() * 1e9):
            raise IdentityError(
                "a message's sequence number lies in the future",
                expected="the coordinator's clock, and this site's, within a day of each other",
                remedy="set the clocks right, and start the server anew",
            )


def digest_of(message: bytes) -> str:
    """SHA-256 of an encoded message, in hexadecimal."""
    return sha256(message).hexdigest()


# Key and statement -> file; file and the public key of the coordinator's certificate -> statement.
sign_instruction, read_instruction = _FORMAT.statements(InstructionStatement)


class SequenceMemory:
    """The highest sequence number that a site has taken from each coordinator's key.

    Args:
        path: a small file, replaced atomically; None keeps the numbers in this process alone, which is for simulations.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._in_memory: dict[str, int] = {}

    def accept(self, identity: bytes, sequence: int) -> None:
        """Remember the number, durably when it returns, or refuse it. Of two that bring the same one, one is refused.

        Args:
            identity: the coordinator's Ed25519 key, 32 bytes.
            sequence: of a message whose signature was verified.

        Raises:
            IdentityError: this or a higher number was taken from that key.
            StorageError: the memory is damaged, or cannot be read or written. Nothing may be acted on.
        """
        if self._path is None:
            self._in_memory = _with(self._in_memory, identity.hex(), sequence)
            return
        with locked_beside(self._path):
            taken = _with(self._read(self._path), identity.hex(), sequence)
            write_atomically(self._path, canonical_json(taken), mode=PRIVATE)

    @staticmethod
    def _read(path: Path) -> dict[str, int]:
        if not path.exists():
            return {}
        try:
            taken = json.loads(read_carried(path, "the memory of sequence numbers"))
            if not isinstance(taken, dict) or not all(
                _DIGEST.fullmatch(key) and type(number) is int for key, number in taken.items()
            ):
                raise ValueError
        except (ValueError, RecursionError):
            raise StorageError(
                f"{path}, which remembers the coordinator's last sequence number, is damaged",
                expected="a number for each coordinator's key",
                remedy="see why; then end the running jobs, or release them, and move the file away: messages that the "
                "coordinator has signed so far could be taken once more",
            ) from None
        return taken


def _with(taken: dict[str, int], key: str, sequence: int) -> dict[str, int]:
    if sequence <= taken.get(key, 0):
        raise IdentityError(
            "a message of the coordinator was taken already, or is older than one that was",
            remedy="have the coordinator send it anew; if its clock was set back, set it right",
        )
    return {**taken, key: sequence}
