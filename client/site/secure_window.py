"""A site's walk through a window of secure aggregation: bytes of a stage in, bytes of the same stage out.

The protocol itself is in `privacy/secagg`; this holds the stage object between messages. It lives in memory only: a
site that is started anew has dropped out of the window.
"""

import hashlib
from typing import Any

from yoriai import wire
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg import Member, ReadyToMask, SiteWindow, SlotTerms, Update, WindowTerms, advertise
from yoriai.privacy.secagg.member import Spend
from yoriai.privacy.secagg.slot import Agreed, Masked


class SecureWindow:
    """One window at one site: its opening stage by stage, then its slots one after the other.

    What was answered in the newest slot is kept: whoever asks the same again gets the same bytes again, and nothing is
    trained, charged or signed for it.

    Args:
        member: this site's identity and verified directory, for the opening.
        terms: worked out by the site from the job that it accepted.
    """

    def __init__(self, member: Member, terms: WindowTerms) -> None:
        self.terms = terms
        self._member = member
        self._stage: Any = None
        self._next = 0
        self._window: SiteWindow | None = None
        self._slot: int | None = None
        self._said: dict[str, tuple[bytes, bytes]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the opening is over, so that slots may be used."""
        return self._window is not None

    def open(self, stage: str, payload: bytes) -> bytes:
        """Answer one stage of the opening. Each comes once and in order; after a refusal there is no way on.

        Raises:
            ProtocolError, PolicyError, IdentityError: as the stages of `privacy.secagg.site`.
        """
        if self._next >= len(wire.WINDOW_STAGES) or stage != wire.WINDOW_STAGES[self._next]:
            raise ProtocolError("a stage of secure aggregation out of order", remedy="begin a new window")
        place, self._next = self._next, len(wire.WINDOW_STAGES)  # Whatever fails below ends the opening here.
        if place == 0:
            self._stage, reply = advertise(self._member, self.terms)
        else:
            self._stage, reply = self._stage.step(payload)
        self._next = place + 1
        if self._next == len(wire.WINDOW_STAGES):
            self._window, self._stage = self._stage, None
        return bytes(reply)

    def said(self, slot: int, stage: str, asked: bytes) -> bytes | None:
        """What was answered to the same bytes in the same stage of the newest slot; None if it was not asked so."""
        digest, reply = self._said.get(stage, (b"", b""))
        return reply if slot == self._slot and digest == hashlib.sha256(asked).digest() else None

    def begin(self, member: Member, terms: SlotTerms) -> ReadyToMask:
        """Take a slot; see `privacy.secagg.slot.SiteWindow.begin`."""
        if self._window is None:
            raise ProtocolError("the window is not open", remedy="begin a new window")
        ready = self._window.begin(member, terms)
        self._slot, self._stage, self._said = terms.slot, None, {}
        return ready

    def mask(self, ready: ReadyToMask, update: Update, spend: Spend, *, asked: bytes) -> bytes:
        """Mask the slot's update, after `spend` has marked it durably as about to leave."""
        self._stage, reply = ready.step(update, spend)
        return self._keep("mask", asked, reply)

    def close(self, slot: int, stage: str, payload: bytes) -> bytes:
        """Answer one of the stages after masking, each once.

        Raises:
            ProtocolError, PolicyError: as the stages of `privacy.secagg.slot`.
        """
        if (said := self.said(slot, stage, payload)) is not None:
            return said
        due = Masked if stage == "agree" else Agreed if stage == "unmask" else None
        if slot != self._slot or due is None or not isinstance(self._stage, due):
            raise ProtocolError("a stage of secure aggregation out of order", remedy="take the next slot")
        current, self._stage = self._stage, None  # Whatever fails below ends the slot here.
        if isinstance(current, Agreed):
            return self._keep(stage, payload, current.step(payload))
        self._stage, reply = current.step(payload)
        return self._keep(stage, payload, reply)

    def _keep(self, stage: str, asked: bytes, reply: bytes) -> bytes:
        self._said[stage] = hashlib.sha256(asked).digest(), reply
        return reply
