"""Whose messages a site acts on: its coordinator's, signed for this very site, and each once.

A site that is a member of a federation has a CA that says who its coordinator is, and takes instructions only. One
without an identity (a simulation without secure aggregation, a daemon before it is enrolled) has nobody who could vouch
for a coordinator, and takes messages as they come; it takes no part in secure aggregation and stores no adapters.
"""

from yoriai import wire
from yoriai.client.site_identity import SiteIdentity
from yoriai.errors import IdentityError, WireError
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.statements.instruction import read_instruction


class Instructions:
    """Opens what comes to one site.

    Args:
        site: its name.
        identity: whose CA vouches for the coordinator; None checks nothing.
    """

    def __init__(self, site: str, identity: SiteIdentity | None) -> None:
        self._site, self._identity = site, identity

    def opened(self, data: bytes) -> wire.Message:
        """The message that a site may act on. From then on the same bytes are refused, also after a restart.

        Nothing of a message is parsed before its signature is verified, and its number is remembered last, so that
        what is refused here changes nothing.

        Raises:
            WireError: the bytes are no message.
            IdentityError: it is not signed, not by the coordinator of this federation, or its certificate has expired
                or was revoked; it is for another site, was changed, or was taken before.
            StorageError: its number cannot be remembered.
        """
        message = wire.decode(data)
        if self._identity is None:
            return message
        if not isinstance(message, wire.Instruction):
            raise IdentityError(
                f"site {self._site}: a message is not signed by the coordinator",
                found=f"a bare {message.kind}",
                expected="an instruction",
                remedy="send it through the coordinator that the consortium has certified",
            )
        trust = self._identity.trust()
        certificate = read_coordinator_certificate(message.certificate.encode(), trust, now=trust.now)
        statement = read_instruction(message.statement.encode(), certificate.public_key)
        if certificate.federation != trust.federation:
            raise IdentityError("the coordinator's certificate is another federation's", expected=trust.federation)
        statement.check(message.payload, federation=trust.federation, site=self._site, now=trust.now)
        asked = wire.decode(message.payload)
        if isinstance(asked, wire.Instruction) or not asked.run_id == statement.run_id == message.run_id:
            raise WireError("an instruction does not carry what it says", expected="one message of the run it names")
        self._identity.taken.accept(certificate.identity, statement.sequence)
        return asked
