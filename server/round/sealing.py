"""How a coordinator signs what it asks: every message to a site, as an instruction with a number that only grows."""

import time
from collections.abc import Callable

from yoriai import wire
from yoriai.privacy.identity.coordinator_identity import certified_federation
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.instruction import InstructionStatement, digest_of, sign_instruction

Signing = tuple[SigningKey, bytes]
"""The coordinator's key, and the file of its certificate."""


class Sealer:
    """Makes instructions of one run's messages.

    Args:
        signing: see Signing.
        run_id: of the run.
        clock: nanoseconds since the epoch. With it a coordinator that is started anew goes on above its last number.

    Raises:
        IdentityError: the certificate is none.
    """

    def __init__(self, signing: Signing, run_id: str, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._key, self._certificate = signing
        self._federation = certified_federation(self._certificate)
        self._run_id, self._clock, self._last = run_id, clock, 0

    def sealed(self, site: str, message: bytes) -> bytes:
        """The instruction that carries an encoded message to a site."""
        self._last = max(self._last + 1, self._clock())
        statement = InstructionStatement(self._federation, site, self._run_id, self._last, digest_of(message))
        return wire.encode(
            wire.Instruction(
                run_id=self._run_id,
                certificate=self._certificate.decode(),
                statement=sign_instruction(self._key, statement).decode(),
                payload=message,
            )
        )
