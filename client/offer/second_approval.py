"""A second person's word for a raise of the budget: their Ed25519 key signs what is raised, from where, to where, why.

    site budget DIR --raise-to E --reason TEXT              writes what there is to sign
    site countersign FILE.request --key KEY                 the second person looks, and signs
    site budget DIR ... --countersigned FILE.signed         raises, once the signature fits

The statement names the ledger's last row by number and hash, so it is good for this ledger as it stands, and once.
What it holds off is one person who raises a budget alone with the commands. Not covered: whoever may write site.toml
can take `policy.second_approver` out of it; the raise's row in the ledger then lacks the second name, for good.
"""

import json
from dataclasses import asdict, dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

_FORMAT = SignedFormat("the second approver's word", "raise", 1, "have the second person sign the newest request")


@dataclass(frozen=True)
class Raise:
    """A raise of a data set's budget, from one state of its ledger.

    Attributes:
        row, head: number and hash (hex) of the ledger's last row.
        asked_by: who asks for it.
    """

    dataset: str
    row: int
    head: str
    epsilon_from: float
    epsilon_to: float
    reason: str
    asked_by: str

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(asdict(self))


sign_raise, _read = _FORMAT.statements(Raise)


def read_request(data: bytes) -> Raise:
    """What a request, which nobody has signed, asks for.

    Raises:
        IdentityError: it is none.
    """
    try:
        asked = Raise(**json.loads(data))
    except (TypeError, ValueError, RecursionError):
        raise _FORMAT.malformed() from None
    if asked.payload != data:
        raise _FORMAT.malformed()
    return asked


def check_countersigned(data: bytes, key: str, wanted: Raise) -> None:
    """Raise IdentityError unless the second approver signed this very raise of the ledger as it stands.

    Args:
        data: the signed file.
        key: the approver's public key (hex).
        wanted: the raise; who asked for it need not be who makes it.
    """
    signed = _read(data, Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)))
    for name, value in asdict(wanted).items():
        if name != "asked_by" and getattr(signed, name) != value:
            raise IdentityError(
                f"the second approver has signed another raise: its {name} differs",
                found=str(getattr(signed, name)),
                expected=str(value),
                remedy="ask for it again: what was signed is good for one raise of the ledger as it stood",
            )
