"""What a site's channels hold, as the coordinator sends it: kept until its operator takes it into use.

    channels/production.7.version    the newest that was delivered, as `server export-version` writes it

Everything is hostile until it is checked: the certificate by the pinned CA, all signatures and digests, lineage and
base as for a file that the operator has (`version_bundle.py`), and the number, which only grows. One file a channel is
kept, within the room that the disk has. Nothing comes into use here, no model is touched, and no record is looked at:
`site pull` verifies it all again, and swaps.

The site's answer says which numbers were delivered and are in use. What is in use is what the operator has decided, and
the server's log keeps it; it tells nothing that the operator would not tell by taking a version.
"""

from collections.abc import Callable
from pathlib import Path

from yoriai import wire
from yoriai.client.versions.adapter_place import check_room
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.judging import Judge, Question
from yoriai.client.versions.version_bundle import read_bundle
from yoriai.errors import PolicyError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.statements.version_statement import CHANNELS, PRODUCTION


class ChannelInbox:
    """Takes what is sent of channels for one site.

    Args:
        site: its name.
        folder: of all its channels.
        base_digest: of the base that it has.
        trust: its CA and revocations, as of now.
        judge: says what the site's test records say of a version; None says nothing.
    """

    def __init__(
        self,
        site: str,
        folder: Path,
        *,
        base_digest: str,
        trust: Callable[[], Trust],
        judge: Judge | None = None,
    ) -> None:
        self._site, self._folder, self._base_digest, self._trust = site, folder, base_digest, trust
        self._judge = judge

    def receive(self, message: wire.VersionFile) -> wire.ChannelState:
        """Keep what a channel holds, durably when it returns; the same once more changes nothing.

        Raises:
            IdentityError: it is not the coordinator's of this federation.
            PolicyError: it is of another base, older than what the site has, has another number's word, or there is no
                room.
            AdapterError, ConfigError: adapter or job are not those of the statement.
            StorageError: it cannot be written.
        """
        data = wire.encode(message)
        bundle = read_bundle(data, self._trust())
        bundle.check_base(self._base_digest)
        place, number = ChannelPlace(self._folder, bundle.promotion.channel), bundle.promotion.number
        with place.locked():
            self._check_number(place, message, number)
            if place.delivered() != number:
                check_room(self._site, self._folder, len(data))
                place.keep_delivered(number, data)
        return self._state(message, place, bundle.promotion.channel)

    def answer(self, question: wire.ChannelQuestion) -> wire.ChannelState:
        """Which versions of a channel are here.

        Raises:
            PolicyError: there is no such channel.
        """
        if question.channel not in CHANNELS:
            raise PolicyError(f"site {self._site} has no such channel", expected=" or ".join(CHANNELS))
        place = ChannelPlace(self._folder, question.channel)
        state = self._state(question, place, question.channel)
        number = state.in_use if question.period else state.delivered
        is_asked = (
            question.number == number and number > 0 and (question.channel == PRODUCTION) == bool(question.period)
        )
        if self._judge is None or not is_asked:
            return state
        counts, withheld = self._judge.answer(Question(question.run_id, number, question.period))
        return state.model_copy(update={"counts": counts, "withheld": withheld})

    def work_off(self) -> None:
        """Judge what was asked about, once the reply is out."""
        if self._judge is not None:
            self._judge.work_off()

    def _check_number(self, place: ChannelPlace, message: wire.VersionFile, number: int) -> None:
        """It must be newer than all that the site has, or the very same."""
        place.check_newer(number)
        here = place.delivered() or 0
        if here > number:
            raise PolicyError(
                f"site {self._site} was delivered a later version already", found=str(number), expected=f"above {here}"
            )
        if here == number and not _is_same(place.delivered_file(number), message):
            raise PolicyError(f"site {self._site} was delivered another version under number {number}")

    def _state(self, asked: wire.Message, place: ChannelPlace, channel: str) -> wire.ChannelState:
        return wire.ChannelState(
            run_id=asked.run_id,
            site=self._site,
            channel=channel,
            delivered=place.delivered() or 0,
            in_use=place.current() or 0,
        )


def _is_same(path: Path, message: wire.VersionFile) -> bool:
    """Whether a file has the same statement about the channel; certificates may be renewed meanwhile."""
    try:
        kept = wire.decode(path.read_bytes())
    except OSError:
        return False
    return isinstance(kept, wire.VersionFile) and kept.promotion == message.promotion
