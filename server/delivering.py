"""The end of a run: every site that took part gets the last adapter, with the coordinator's signature under it.

Who has confirmed stands in the checkpoint, so that a run which is resumed delivers only what is missing. A site that
cannot be reached fails nothing: the run is finished all the same.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from yoriai import wire
from yoriai.errors import RoundError
from yoriai.privacy.coordinator_identity import certified_federation
from yoriai.privacy.delivery import Delivery, sign_delivery
from yoriai.privacy.identity import SigningKey
from yoriai.server.messenger import UNEXPECTED, Messenger
from yoriai.server.registry import Checkpoint, Registry
from yoriai.terminal import one_line

Signing = tuple[SigningKey, bytes]
"""The coordinator's key, and the file of its certificate."""

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
    """Send the last adapter to every site of the roster that took part and has not confirmed it.

    One that cannot be reached, or does not answer, is tried again for a while; one that refuses is not.

    Args:
        checkpoint: of the finished run.
        registry: where each confirmation is stored.
        roster: the sites as they are now.
        roster_digest: of the signed roster (hex); empty without secure aggregation.
        within_s: time for all attempts together.
        again_s: wait before the second attempt.

    Returns:
        The checkpoint with the sites that have confirmed.

    Raises:
        CheckpointError: a confirmation cannot be stored.
        IdentityError: the certificate is none.
    """
    digest, until = checkpoint.adapter.digest(), time.monotonic() + within_s
    took_part = {site for record in checkpoint.rounds for site in record.answered} & set(roster)
    missing = {site for site in took_part if checkpoint.delivered.get(site) != digest}
    data = wire.encode(_message(checkpoint, roster_digest, signing)) if missing else b""
    for attempt in range(_ATTEMPTS):
        left = until - time.monotonic()
        if not missing or left <= 0:
            break
        if attempt:
            time.sleep(min(again_s * 2 ** (attempt - 1), left))
        refused, reasons = _attempt(messenger, data, sorted(missing), digest, timeout_s=max(left, 1.0))
        # Who refuses would a minute later, too, and the next job waits for this one's end.
        confirmed, missing = missing - reasons.keys(), reasons.keys() - refused
        if confirmed:
            delivered = {**checkpoint.delivered, **dict.fromkeys(confirmed, digest)}
            checkpoint = replace(checkpoint, delivered=delivered, ledger_heads=dict(messenger.ledger_heads))
            registry.save(checkpoint)
        if on_delivery is not None:
            on_delivery(reasons)
    return checkpoint


def _message(checkpoint: Checkpoint, roster_digest: str, signing: Signing) -> wire.Delivery:
    key, certificate = signing
    statement = Delivery(
        federation=certified_federation(certificate),
        run_id=checkpoint.run_id,
        job_digest=checkpoint.job_digest,
        base_digest=checkpoint.base_digest,
        roster_digest=roster_digest,
        rounds=checkpoint.next_round,
        adapter_digest=checkpoint.adapter.digest(),
    )
    return wire.Delivery(
        run_id=checkpoint.run_id,
        certificate=certificate.decode(),
        statement=sign_delivery(key, statement).decode(),
        payload=checkpoint.adapter.to_bytes(),
    )


def _attempt(
    messenger: Messenger, data: bytes, sites: Collection[str], digest: str, *, timeout_s: float
) -> tuple[set[str], dict[str, str]]:
    """Who has refused; and why some of the sites have not confirmed: who is not in it has."""
    try:
        reachable = messenger.reachable()
    except RoundError as error:  # Two nodes by one name, say: the run is finished, and nothing can be lost by it.
        return set(), dict.fromkeys(sites, one_line(str(error)))
    asked = [site for site in sites if site in reachable]
    replies, faults = messenger.ask(wire.DELIVERY_STAGE, dict.fromkeys(asked, data), timeout_s)
    reasons = {site: "not connected" for site in sites if site not in reachable} | faults
    refused = set()
    for site, reply in replies.items():
        if isinstance(reply, wire.Refusal):
            refused.add(site)
            reasons[site] = one_line(reply.reason)
        elif not isinstance(reply, wire.Receipt):
            reasons[site] = UNEXPECTED
        elif reply.adapter_digest != digest:
            reasons[site] = "confirms another adapter"
    return refused, reasons
