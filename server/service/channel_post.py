"""What channels hold goes to the sites, and which of it they use comes back: a row of the log for each of both.

    received   a site's daemon has verified and kept the version; it is not in use by that
    pulled     the site's operator has taken it into use

What is missing is told by the log alone, so that a server which was started anew goes on where the last one was. A
site that refuses is asked again by the next errand, which may be hours later. A log that cannot be written holds
nothing up: what was sent is sent once more.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeGuard

from yoriai import wire
from yoriai.errors import YoriaiError
from yoriai.privacy.identity.version_statement import CHANNELS
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.messenger import UNEXPECTED, Messenger, Transport
from yoriai.server.round.sealing import Sealer
from yoriai.server.service.channels import version_file
from yoriai.server.service.recording import Records, records_of
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Standing, Version
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append, sites_with
from yoriai.system.log import EventLog
from yoriai.terminal import one_line

RECEIVED, PULLED = "received", "pulled"


class ChannelPost:
    """Brings sites what the channels of a server hold.

    Args:
        folder: of the server.
        log: told of what did not go as it should.
        within_s: time for one exchange; a site answers at once, unless it trains.
    """

    def __init__(self, folder: ServerFolder, log: EventLog, *, within_s: float = 30.0) -> None:
        self._folder, self._log, self._within_s = folder, log, within_s
        self._tried: set[tuple[str, int]] = set()

    def bring(self, transport: Transport, *, asks: bool = False) -> None:
        """Send each site that can be reached what it was not sent yet; each is tried once for a row of a channel.

        Args:
            asks: also ask the sites that have it which version they use.
        """
        if not self._folder.versions.is_file():
            return
        try:
            with records_of(self._folder) as records:
                for row in standing_rows(records):
                    self._bring(records, row, transport, asks=asks)
        except YoriaiError as error:  # A job goes on all the same.
            self._log.event("not_sent", error=str(error))

    def _bring(self, records: Records, row: Standing, transport: Transport, *, asks: bool) -> None:
        version = catalogue.version(records.db, row.version)
        have, use = (sites_with(records.db, event, run=version.run, number=row.number) for event in (RECEIVED, PULLED))
        reachable = set(transport.sites())
        fresh = {site for site in reachable - have if (site, row.number) not in self._tried}
        self._tried |= {(site, row.number) for site in fresh}
        messages = dict.fromkeys(fresh, wire.encode(version_file(records, row))) if fresh else {}
        if asks:
            question = wire.encode(wire.ChannelQuestion(run_id=version.run, channel=row.channel))
            messages |= dict.fromkeys((reachable & have) - use, question)
        if not messages:
            return
        messenger = Messenger(transport, version.run, Sealer(self._folder.signing(datetime.now(UTC)), version.run))
        replies, faults = messenger.ask(wire.CHANNEL_STAGE, messages, self._within_s)
        states = {site: state for site, state in replies.items() if _is_of(state, row)}
        delivered = {site for site, state in states.items() if state.delivered == row.number}
        used = {site for site, state in states.items() if state.in_use == row.number}
        _note(records, row, version, {RECEIVED: delivered - have, PULLED: used - use})
        for site in sorted(fresh - delivered):
            self._log.event(
                "not_sent", site=site, channel=row.channel, run=version.run, reason=_why(site, replies, faults)
            )


def standing_rows(records: Records) -> Iterator[Standing]:
    """What is in force in each channel, production first."""
    for channel in reversed(CHANNELS):
        if (row := catalogue.standing(records.db, channel)) is not None:
            yield row


def is_owed(records: Records, members: Collection[str]) -> bool:
    """Whether one of these sites has not received what a channel holds, or was not heard to use it."""
    for row in standing_rows(records):
        run = catalogue.version(records.db, row.version).run
        if set(members) - sites_with(records.db, PULLED, run=run, number=row.number):
            return True
    return False


def _is_of(reply: wire.Reply, row: Standing) -> TypeGuard[wire.ChannelState]:
    return isinstance(reply, wire.ChannelState) and reply.channel == row.channel


def _note(records: Records, row: Standing, version: Version, told: Mapping[str, Collection[str]]) -> None:
    """A row of the log for each event and site."""
    if not any(told.values()):
        return
    with writing(records.db):
        for event, sites in told.items():
            for site in sorted(sites):
                said = {"channel": row.channel, "number": row.number, "adapter": version.digest}
                append(records.db, records.key, event, run=version.run, site=site, **said)


def _why(site: str, replies: Mapping[str, wire.Reply], faults: Mapping[str, str]) -> str:
    reply = replies.get(site)
    if isinstance(reply, wire.Refusal):
        return one_line(reply.reason)
    return faults.get(site, UNEXPECTED)
