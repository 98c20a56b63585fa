"""The coordinator's windows of keys for secure aggregation: when one is opened, for whom, and which slot comes next.

A window is opened when there is none; when its slots are used up; when a site that should take part is not a live
member of it (it is new, was started anew, could not be reached and now can, or fell silent while the window was opened
and has accepted the job once more); when fewer members are left than a sum needs; or when other sites are chosen, as
they are once one has accepted late (decision 28). The sites of a run with participation below 1 are drawn for a window,
by its first round. All of this is in memory only: a coordinator that is
started anew opens a new window.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import RoundError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.job_terms.round_terms import window_terms
from yoriai.privacy.secagg import Advertising, SlotTerms, SumWindow, WindowTerms
from yoriai.server.round.attendance import Attendance
from yoriai.server.round.messenger import Messenger
from yoriai.server.round.round_aggregate import (
    Place,
    Replies,
    RoundAggregate,
    VoidRound,
    protocol_payloads,
    secure_mean,
    too_few,
    with_reasons,
)
from yoriai.server.round.round_sums import RoundSum

Ask = Callable[[Sequence[str], wire.TrainRequest | wire.WindowRequest], tuple[Replies, Mapping[str, str]]]
"""Sends sites a request: the replies, and the reason of every site asked that sent none."""


@dataclass
class _Open:
    """The present window.

    Attributes:
        chosen: the sites that it was opened for, whether they could be asked or not.
        absent: those asked that are not members, and why.
        out_of_reach: those of the absent that could not be reached.
        silent: those of the absent that can be reached and fell silent, or say that they were started anew.
        lost: members that say they have its keys no more.
        used: slots that were begun.
    """

    window: SumWindow
    terms: WindowTerms
    chosen: tuple[str, ...]
    absent: dict[str, str]
    out_of_reach: set[str]
    silent: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    used: int = 0

    def members(self) -> set[str]:
        return set(self.window.members) - self.lost

    def note(self, replies: Replies) -> None:
        """Remember which members have said that they have the window's keys no more."""
        self.lost |= _started_anew(replies)


class Windows:
    """The windows of one run.

    Args:
        job: of the run.
        base_digest: of the base model.
        noise_multiplier: as offered; None without privacy.
        run_id: of the run.
        directory: verified members.
        messenger: to the sites.
        attendance: who has accepted the job.
        keys_s: seconds to wait in every stage but the one that trains.
    """

    def __init__(
        self,
        job: JobConfig,
        *,
        base_digest: str,
        noise_multiplier: float | None,
        run_id: str,
        directory: Directory,
        messenger: Messenger,
        attendance: Attendance,
        keys_s: float,
    ) -> None:
        self._job, self._base_digest, self._run_id = job, base_digest, run_id
        self._noise_multiplier = noise_multiplier
        self._directory, self._messenger, self._attendance = directory, messenger, attendance
        self._keys_s = keys_s
        self._begun = 0
        self._open: _Open | None = None

    def chosen(self) -> tuple[str, ...] | None:
        """The sites that the present window was opened for; None if the next round needs a new one."""
        return self._open.chosen if self._open and self._serves(self._open) else None

    def collect(
        self,
        request: wire.TrainRequest,
        chosen: Sequence[str],
        *,
        carried: RoundSum,
        rounds_left: int,
        ask: Ask,
    ) -> RoundAggregate:
        """One attempt at a round, in the next slot: of a new window if there has to be one.

        Args:
            request: of the round, before it has a window and a slot.
            chosen: the sites of the round.
            carried: what the slot carries.
            rounds_left: of the run, this one included: a window has no more slots than that.
            ask: see Ask.

        Raises:
            VoidRound: too few sites agree on keys or send masked updates; nothing opened.
        """
        now = self._ready(tuple(chosen), rounds_left, ask)
        slot, now.used = now.used, now.used + 1
        place = (now.terms.number, slot)
        terms = SlotTerms(
            slot=slot,
            round_index=request.round_index,
            adapter_digest=bytes.fromhex(request.adapter_digest),
            n_params=carried.n_params,
            grid=carried.grid,
        )
        masking = now.window.begin(terms)
        update = {"window": now.terms.number, "slot": slot, "value_range": carried.value_range}
        replies, faults = ask(sorted(self._live(now)), request.model_copy(update=update))
        now.note(replies)
        missing = {**now.absent, **faults}
        try:
            collected = secure_mean(
                replies,
                masking=masking,
                place=place,
                terms=now.terms,
                carried=carried,
                exchange=partial(self._stage, now, slot),
            )
        except VoidRound as error:
            if not error.survived:  # Too few of the members are left, as far as one can see.
                self._open = None
            raise VoidRound(with_reasons(error, missing).found, masked=True, survived=error.survived) from None
        return replace(collected, missing={**missing, **collected.missing})

    def _stage(
        self, now: _Open, slot: int, stage: str, payloads: Mapping[str, bytes]
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """One later stage of a slot."""
        replies, faults = self._send((now.terms.number, slot), stage, payloads)
        now.note(replies)
        return replies, faults

    def _ready(self, chosen: tuple[str, ...], rounds_left: int, ask: Ask) -> _Open:
        """The present window if it serves these sites, else a new one."""
        now = self._open
        if now is None or now.chosen != chosen or not self._serves(now):
            self._open = None
            now = self._open = self._opened(chosen, rounds_left, ask)
        return now

    def _live(self, now: _Open) -> set[str]:
        return now.members() & self._attendance.accepted

    def _serves(self, now: _Open) -> bool:
        """Whether the window has a slot left, enough members, and every site that should be one of them."""
        keys = now.window.keys
        if now.used == now.terms.slots or len(self._live(now)) < max(keys.quorum, now.terms.least_survivors):
            return False
        back = now.out_of_reach & self._messenger.reachable() if now.out_of_reach else set()
        wanted = set(now.chosen) & self._attendance.accepted
        return wanted <= now.members() | (now.absent.keys() - back - now.silent)

    def _opened(self, chosen: tuple[str, ...], rounds_left: int, ask: Ask) -> _Open:
        """Agree on the keys of a new window with those of the sites that have accepted the job."""
        terms = window_terms(
            self._job,
            base_digest=self._base_digest,
            noise_multiplier=self._noise_multiplier,
            run_id=self._run_id,
            number=self._begun,
            slots=min(self._job.secure_aggregation.window, rounds_left),
            roster_digest=self._directory.roster.digest,
        )
        self._begun += 1
        asked = [site for site in chosen if site in self._attendance.accepted]
        request = wire.WindowRequest(run_id=self._run_id, window=terms.number, slots=terms.slots)
        answers, faults = ask(asked, request)
        missing = dict(faults)
        window, unheard = self._agree(terms, answers, missing)
        absent = {site: missing.get(site, "it has not agreed on keys") for site in asked if site not in window.members}
        unheard |= absent.keys() - answers.keys()
        unheard &= absent.keys() & self._attendance.accepted
        silent = unheard & self._messenger.reachable() if unheard else set()
        self._attendance.doubt({site: absent[site] for site in silent})
        return _Open(window, terms, chosen, absent, unheard - silent, silent)

    def _agree(self, terms: WindowTerms, answers: Replies, missing: dict[str, str]) -> tuple[SumWindow, set[str]]:
        """The stages that open a window, from the first answers on; reasons go to `missing`.

        Returns:
            The window, and the sites that fell silent or were started anew meanwhile.
        """
        unheard: set[str] = set()
        stage: Any = Advertising(self._directory, terms)
        first, *later = wire.WINDOW_STAGES
        replies = protocol_payloads(answers, first, (terms.number, None), missing)
        try:
            for name in later:
                stage, payloads = stage.step(replies.items())
                answers, faults = self._send((terms.number, None), name, payloads)
                missing |= {site: f"{reason} (stage {name})" for site, reason in faults.items()}
                unheard |= faults.keys() | _started_anew(answers)
                replies = protocol_payloads(answers, name, (terms.number, None), missing)
            window: SumWindow = stage.step(replies.items())
        except RoundError as error:
            found = too_few(str(error), {**stage.refused, **missing}, terms.least_survivors).found
            raise VoidRound(found, masked=False) from None
        for site, reason in stage.refused.items():
            missing.setdefault(site, reason)
        return window, unheard

    def _send(
        self, place: Place, stage: str, payloads: Mapping[str, bytes]
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        window, slot = place
        encoded: dict[bytes, bytes] = {}  # In most stages all sites are sent the same, up to a megabyte of it.
        for payload in payloads.values():
            if payload not in encoded:
                message = wire.SecureStage(run_id=self._run_id, window=window, slot=slot, stage=stage, payload=payload)
                encoded[payload] = wire.encode(message)
        messages = {site: encoded[payload] for site, payload in payloads.items()}
        return self._messenger.ask(stage, messages, self._keys_s)


def _started_anew(replies: Replies) -> set[str]:
    """Sites that say that they know the window, or the whole job, no more."""
    return {
        site
        for site, reply in replies.items()
        if isinstance(reply, wire.Refusal) and (reply.unknown_window or reply.unknown_job)
    }
