"""What channels hold goes to the sites; what they use of it, and what their test records say, comes back into the log.

    received          a site's daemon has verified and kept the version; it is not in use by that
    pulled            the site's operator has taken what stands in production into use
    voted, checked    the site's noised counts (`privacy/statements/counts_statement.py`), verified by its certificate
    withheld          the site says nothing of the kind, and why

What is missing is told by the log alone, so that a server which was started anew goes on where the last one was. A
site that refuses is asked again by the next errand, which may be hours later. A log that cannot be written holds
nothing up: what was sent is sent once more.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TypeGuard

from yoriai import wire
from yoriai.errors import IdentityError, YoriaiError
from yoriai.privacy.identity.public_keys import ed25519_key
from yoriai.privacy.statements.counts_statement import CountsStatement, read_counts
from yoriai.privacy.statements.version_statement import CHANNELS, PRODUCTION, STAGING
from yoriai.server.channels.changing import version_file
from yoriai.server.channels.schedule import period_of
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.recording import Records, records_of
from yoriai.server.round.messenger import UNEXPECTED, Messenger, Transport
from yoriai.server.round.sealing import Sealer
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Standing, Version
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append, sites_with
from yoriai.server.versions.verdicts import CHECKED, VOTED, WITHHELD
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
            asks: also ask the sites that have it what they use, and what their test records say.
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
        known = _Known.of(records, row)
        reachable = set(transport.sites())
        fresh = {site for site in reachable - known.received if (site, row.number) not in self._tried}
        self._tried |= {(site, row.number) for site in fresh}
        messages = dict.fromkeys(fresh, wire.encode(version_file(records, row))) if fresh else {}
        if asks:
            question = wire.encode(known.question())
            messages |= dict.fromkeys(reachable & known.to_ask(), question)
        if not messages:
            return
        run = known.version.run
        messenger = Messenger(transport, run, Sealer(self._folder.signing(datetime.now(UTC)), run))
        replies, faults = messenger.ask(wire.CHANNEL_STAGE, messages, self._within_s)
        states = {site: state for site, state in replies.items() if _is_of(state, row)}
        self._note(records, known, states)
        for site in sorted(fresh - {site for site, state in states.items() if state.delivered == row.number}):
            reason = _why(site, replies, faults)
            self._log.event("not_sent", site=site, channel=row.channel, run=run, reason=reason)

    def _note(self, records: Records, known: "_Known", states: Mapping[str, wire.ChannelState]) -> None:
        """A row of the log for each thing that a site says now and did not say before."""
        keys = self._keys() if any(state.counts for state in states.values()) else {}
        news = {site: self._said(site, state, known, keys) for site, state in sorted(states.items())}
        told = [(site, *said) for site, new in news.items() for said in new]
        if not told:
            return
        row, version = known.row, known.version
        with writing(records.db):
            for site, event, fields in told:
                about = {"channel": row.channel, "number": row.number, "adapter": version.digest}
                append(records.db, records.key, event, run=version.run, site=site, **about, **fields)

    def _keys(self) -> Mapping[str, bytes]:
        """With which each member signs for itself; none where no roster holds now. Of a thousand it takes a while."""
        with suppress(IdentityError):
            return self._folder.identities(datetime.now(UTC))
        return {}

    def _said(
        self, site: str, state: wire.ChannelState, known: "_Known", keys: Mapping[str, bytes]
    ) -> Iterator[tuple[str, dict[str, object]]]:
        number, period = known.row.number, {"period": known.period}
        if state.delivered == number and site not in known.received:
            yield RECEIVED, {}
        if state.in_use == number and site not in known.pulled and known.row.channel == PRODUCTION:
            yield PULLED, {}
        if not known.counts_are_asked or site in known.told:
            return
        if state.withheld:
            yield WITHHELD, {**period, "reason": one_line(state.withheld)}
        elif state.counts:
            try:
                found = read_counts(state.counts.encode(), ed25519_key(keys[site]))
                known.check(found, site)
            except (IdentityError, KeyError) as error:
                self._log.event("counts_refused", site=site, reason=one_line(str(error)))
                return
            figures = {"counts": [found.first, found.second], "deviation": found.deviation, "epsilon": found.epsilon}
            yield known.event, {**period, **figures, "statement": state.counts}


@dataclass(frozen=True)
class _Known:
    """What the log has of a row of a channel, and what is still to be asked.

    Attributes:
        period: of the check that is asked for in production; 0 for none, and for a vote on staging.
        told: sites that gave these counts, or withhold them.
    """

    row: Standing
    version: Version
    period: int
    received: frozenset[str]
    pulled: frozenset[str]
    told: frozenset[str]

    @classmethod
    def of(cls, records: Records, row: Standing) -> Self:
        version = catalogue.version(records.db, row.version)
        period = period_of(records, row, version) if row.channel == PRODUCTION else 0

        def sites(event: str, **like: int) -> frozenset[str]:
            return frozenset(sites_with(records.db, event, run=version.run, number=row.number, **like))

        told = sites(_event(row), period=period) | sites(WITHHELD, period=period)
        return cls(row, version, period, sites(RECEIVED), sites(PULLED), told)

    @property
    def event(self) -> str:
        """What counts are called in the log."""
        return _event(self.row)

    @property
    def counts_are_asked(self) -> bool:
        """Whether sites are asked what their test records say: of a candidate always, of production at set times."""
        return self.row.channel == STAGING or self.period > 0

    def to_ask(self) -> frozenset[str]:
        """The sites that have it and have not said all of it yet. Production is judged by those who use it."""
        if self.row.channel == STAGING:
            return self.received - self.told
        return (self.received - self.pulled) | (self.pulled - self.told if self.period else frozenset())

    def owed(self, members: Collection[str]) -> bool:
        """Whether one of these sites has not received it, or has something left to say."""
        return bool((set(members) - self.received) or (set(members) & self.to_ask()))

    def question(self) -> wire.ChannelQuestion:
        """What they are asked."""
        return wire.ChannelQuestion(
            run_id=self.version.run, channel=self.row.channel, number=self.row.number, period=self.period
        )

    def check(self, found: CountsStatement, site: str) -> None:
        """Raise IdentityError unless the counts are of this site, version and period."""
        said = (found.site, found.federation, found.adapter_digest, found.number, found.period)
        if said != (site, self.version.statement.federation, self.version.digest, self.row.number, self.period):
            raise IdentityError("a site's counts are about something else than it was asked")


def _event(row: Standing) -> str:
    return VOTED if row.channel == STAGING else CHECKED


def standing_rows(records: Records) -> Iterator[Standing]:
    """What is in force in each channel, production first."""
    for channel in reversed(CHANNELS):
        if (row := catalogue.standing(records.db, channel)) is not None:
            yield row


def is_owed(records: Records, members: Collection[str]) -> bool:
    """Whether one of these sites has not received what a channel holds, or has something to say of it."""
    return any(_Known.of(records, row).owed(members) for row in standing_rows(records))


def _is_of(reply: wire.Reply, row: Standing) -> TypeGuard[wire.ChannelState]:
    return isinstance(reply, wire.ChannelState) and reply.channel == row.channel


def _why(site: str, replies: Mapping[str, wire.Reply], faults: Mapping[str, str]) -> str:
    reply = replies.get(site)
    if isinstance(reply, wire.Refusal):
        return one_line(reply.reason)
    return faults.get(site, UNEXPECTED)
