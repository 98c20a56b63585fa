"""The end of a run, signed by the coordinator: who took part gets the last adapter, the others learn of the end.

A run may end early, after any number of rounds. A site that is in none of them frees, upon the end, what it holds for
the run. Who has confirmed stands in the checkpoint, so that a run which is resumed delivers only what is missing. A
site that cannot be reached fails nothing: the run is over all the same.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from yoriai import wire
from yoriai.errors import RoundError
from yoriai.privacy.identity.coordinator_identity import certified_federation
from yoriai.privacy.statements.delivery import DeliveryStatement, sign_delivery
from yoriai.server.round.messenger import UNEXPECTED, Messenger
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.server.round.sealing import Signing
from yoriai.terminal import one_line

OnDelivery = Callable[[Mapping[str, str]], None]
"""Told, after an attempt, which sites have not confirmed so far, and why."""

# The wait between two of them doubles, so that a site which restarts, or a cable that is put back, is found again.
_ATTEMPTS = 4


def deliver(
    checkpoint: Checkpoint,
    registry: Registry,
    messenger: Messenger,
    *,
    roster: Collection[str],
    roster_digest: str,
    signing: Signing,
    within_s: float,
    again_s: float,
    on_delivery: OnDelivery | None = None,
) -> Checkpoint:
    """Send every site of the roster that has not confirmed it the end: with the last adapter, if it took part.

    One that cannot be reached, or does not answer, is tried again for a while; one that refuses, or that was never
    heard of in this run, is not.

    Args:
        checkpoint: of the run, which no further round follows.
        registry: where each confirmation is stored.
        roster: the sites as they are now.
        roster_digest: of the signed roster (hex) under which the sites accepted the job last, as far as is known; empty
            without secure aggregation.
        within_s: time for all attempts together.
        again_s: wait before the second attempt.

    Returns:
        The checkpoint with the sites that have confirmed.

    Raises:
        CheckpointError: a confirmation cannot be stored.
        IdentityError: the certificate is none.
    """
    until = time.monotonic() + within_s
    took_part = {site for record in checkpoint.rounds for site in record.answered}
    due = {site: checkpoint.adapter.digest() if site in took_part else "" for site in roster}
    missing = {site for site, digest in due.items() if checkpoint.delivered.get(site) != digest}
    data = {digest: wire.encode(_message(checkpoint, digest, roster_digest, signing)) for digest in set(due.values())}
    for attempt in range(_ATTEMPTS):
        left = until - time.monotonic()
        if not missing or left <= 0:
            break
        if attempt:
            time.sleep(min(again_s * 2 ** (attempt - 1), left))
        asked = {site: data[due[site]] for site in sorted(missing)}
        refused, reasons = _attempt(messenger, asked, due, timeout_s=max(left, 1.0))
        # Who refuses would a minute later, too, and the next job waits for this one's end.
        known = took_part | messenger.ledger_heads.keys()
        confirmed, missing = missing - reasons.keys(), (reasons.keys() - refused) & known
        if confirmed:
            delivered = {**checkpoint.delivered, **{site: due[site] for site in confirmed}}
            checkpoint = replace(checkpoint, delivered=delivered, ledger_heads=dict(messenger.ledger_heads))
            registry.save(checkpoint)
        if on_delivery is not None:
            on_delivery(reasons)
    return checkpoint


def _message(checkpoint: Checkpoint, digest: str, roster_digest: str, signing: Signing) -> wire.Delivery:
    """The end, with the adapter if there is a digest."""
    key, certificate = signing
    statement = DeliveryStatement(
        federation=certified_federation(certificate),
        run_id=checkpoint.run_id,
        job_digest=checkpoint.job_digest,
        base_digest=checkpoint.base_digest,
        roster_digest=roster_digest,
        rounds=checkpoint.next_round,
        adapter_digest=digest,
    )
    return wire.Delivery(
        run_id=checkpoint.run_id,
        certificate=certificate.decode(),
        statement=sign_delivery(key, statement).decode(),
        payload=checkpoint.adapter.to_bytes() if digest else b"",
    )


def _attempt(
    messenger: Messenger, messages: Mapping[str, bytes], due: Mapping[str, str], *, timeout_s: float
) -> tuple[set[str], dict[str, str]]:
    """Who has refused; and why some of the sites have not confirmed what is due: who is not in it has."""
    try:
        reachable = messenger.reachable()
    except RoundError as error:  # Two nodes by one name, say: the run is finished, and nothing can be lost by it.
        return set(), dict.fromkeys(messages, one_line(str(error)))
    asked = {site: message for site, message in messages.items() if site in reachable}
    replies, faults = messenger.ask(wire.DELIVERY_STAGE, asked, timeout_s)
    reasons = {site: "not connected" for site in messages if site not in reachable} | faults
    refused = set()
    for site, reply in replies.items():
        if isinstance(reply, wire.Refusal):
            refused.add(site)
            reasons[site] = one_line(reply.reason)
        elif not isinstance(reply, wire.Receipt):
            reasons[site] = UNEXPECTED
        elif reply.adapter_digest != due[site]:
            reasons[site] = "confirms another adapter"
    return refused, reasons
