"""What a site signs about a version: two counts over its own test records, noised and paid for, or none at all.

    vote     of a candidate against the version in use: records that it gains, records that it loses
    check    of the version in use, at a set time: records answered right, records answered wrong

Laid out as in `signed_file.py`, under the site's key. Each unit of privacy adds a vector of length 1 at most to the two
counts, and each count carries Gaussian noise of `deviation`; so the pair costs what one Gaussian of that multiplier
costs, which the site's ledger has charged before the file was made. Counts may be below 0: that is the noise.

Not covered: a site that counts falsely. It is its word, which the server's log keeps with its signature.
"""

import math
from dataclasses import asdict, dataclass
from typing import Final

from yoriai.privacy.identity.certificates import check_name
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

PURPOSES: Final = ("vote", "check")
_FORMAT = SignedFormat("a site's counts", "counts", 1, remedy="ask the site again")
_LONGEST_RUN_ID, _DIGEST_LENGTH, _LARGEST = 128, 64, 2**53


@dataclass(frozen=True)
class CountsStatement:
    """Two counts as a site vouches for them.

    Attributes:
        federation, site: whose word it is.
        purpose: vote or check.
        run_id, adapter_digest: the version.
        number: of the version in its channel, as the coordinator signed it.
        period: which check of this version it is, from 1 on; 0 for a vote.
        first, second: gained and lost, or right and wrong; with noise.
        deviation: of the noise in each of them; above 0, and of a size whose square is a number.
        epsilon, delta: what one unit of the site pays for it by the site's policy.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    site: str
    purpose: str
    run_id: str
    adapter_digest: str
    number: int
    period: int
    first: int
    second: int
    deviation: float
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_name(self.federation)
        check_name(self.site)
        whole = (self.number, self.period, self.first, self.second)
        real = (self.deviation, self.epsilon, self.delta)
        good = (
            self.purpose in PURPOSES
            and type(self.run_id) is str
            and 1 <= len(self.run_id) <= _LONGEST_RUN_ID
            and type(self.adapter_digest) is str
            and len(self.adapter_digest) == _DIGEST_LENGTH
            and all(type(value) is int and abs(value) < _LARGEST for value in whole)
            and self.number >= 1
            and (self.period >= 1 if self.purpose == "check" else self.period == 0)
            and all(type(value) is float and math.isfinite(value) and 0 < value < _LARGEST for value in real)
        )
        if not good:
            raise _FORMAT.malformed()

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(asdict(self))


# Key and statement -> file; file and the public key of the site's certificate -> statement.
sign_counts, read_counts = _FORMAT.statements(CountsStatement)


def unverified_counts(data: bytes) -> CountsStatement:
    """The statement in a file whose signature is not looked at: for what a site has signed itself.

    Raises:
        IdentityError: it is no such file.
    """
    return _FORMAT.unverified(data, CountsStatement)
