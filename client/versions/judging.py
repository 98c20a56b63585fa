"""A site's judgement of versions on its own newest test records: for its own eyes always, for others if policy says so.

    staging       a candidate that was delivered, against the version in use in production: the site's vote
    production    the version in use, whenever the server asks for another period: the site's check

What leaves is a pair of counts with noise (`counting.py`), signed, charged before a record is looked at, drawn once for
a version and period and kept; asked again, the site gives the same file. By default (`policy.count_epsilon` = 0)
nothing leaves but that it is withheld, and why; no reason depends on a record. The records are looked at after the
reply is out, when no job is at hand, and read anew from the site's folder.

A check also stays at the site exactly (`own_checks.py`), where it tells the operator of a version that came to answer
worse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yoriai.client.offer.charge_names import COUNTS_MARK
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site_identity import SiteIdentity
from yoriai.client.versions.adapter_place import VERSION
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.counting import Judged, check_counts, counts_event, measure, noised, vote_counts
from yoriai.client.versions.given_counts import counts_file
from yoriai.client.versions.own_checks import OwnChecks
from yoriai.client.versions.pulling import JOB
from yoriai.client.versions.version_bundle import read_bundle
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import BudgetError, PolicyError, YoriaiError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.randomness import RandomSource, SystemSource
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.statements.counts_statement import CountsStatement, sign_counts
from yoriai.privacy.statements.version_statement import PRODUCTION, STAGING
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import PRIVATE, make_private_folder, write_atomically

_MOST_KEPT, _LONGEST_REASON = 100, 300


@dataclass(frozen=True)
class Question:
    """What is asked of a version: `number` in its channel; `period` is 0 for a vote."""

    run_id: str
    number: int
    period: int

    @property
    def purpose(self) -> str:
        """vote or check."""
        return "check" if self.period else "vote"

    @property
    def name(self) -> str:
        """Of its file, and in the ledger; the number is the coordinator's and is given once."""
        return f"{self.purpose}.{self.number}.{self.period}"

    @property
    def charge(self) -> str:
        """The name under which the ledger keeps it."""
        return f"{self.run_id}{COUNTS_MARK}/{self.name}"


class Judge:
    """Judges versions for one site.

    Args:
        config: name and policy.
        folder: of all channels.
        session: with the site's base; whoever calls `work_off` does not hold its lock.
        ledger, identity: of the site.
        records: reads its test records as they are now.
        on_fault: told what went wrong, for the site's own eyes.
        on_drift: told of a run whose version has come to answer worse.
        progress: called as (records done, records in all); may raise to give it up, and the charge stays reserved.
        source: of the noise.
    """

    def __init__(
        self,
        config: SiteConfig,
        folder: Path,
        *,
        session: ModelSession,
        ledger: Ledger,
        identity: SiteIdentity,
        records: Callable[[], Sequence[Record]],
        on_fault: Callable[[str], None],
        on_drift: Callable[[str], None] = lambda _run: None,
        progress: Callable[[int, int], None] | None = None,
        source: Callable[[], RandomSource] = SystemSource,
    ) -> None:
        self._name, self._policy, self._folder = config.name, config.policy, folder
        self._session, self._ledger, self._identity = session, ledger, identity
        self._records, self._on_fault, self._on_drift = records, on_fault, on_drift
        self._progress, self._source = progress, source
        self._own_checks = OwnChecks(folder)
        self._waiting: dict[str, Question] = {}
        self._withheld: dict[str, str] = {}

    def answer(self, question: Question) -> tuple[str, str]:
        """The signed counts, if they are there, and else why they are withheld; both empty while they are awaited."""
        place = self._place(question)
        if place.is_file():
            if not self._ledger.has_released(question.charge):  # A kill came between the file and the mark.
                self._release(question)
            return place.read_text(), ""
        if question.name in self._withheld:
            return "", self._withheld[question.name]
        if self._policy.count_epsilon == 0:
            if question.period and not self._own_checks.has(question.number, question.period):
                self._waiting[question.name] = question
            return "", "policy.count_epsilon is 0: what this site's test records say stays there"
        self._waiting[question.name] = question
        return "", ""

    def work_off(self) -> None:
        """Judge what was asked."""
        while self._waiting:
            name, question = self._waiting.popitem()
            try:
                self._judge(question)
            except YoriaiError as error:  # Budget, policy or the disk; the records are behind the charge.
                self._on_fault(f"{name}: {error}")
                why = "the budget does not bear it" if isinstance(error, BudgetError) else "it cannot be judged here"
                if len(self._withheld) >= _MOST_KEPT:
                    self._withheld.clear()
                self._withheld[name] = str(error)[:_LONGEST_REASON] if isinstance(error, PolicyError) else why

    def _judge(self, question: Question) -> None:
        versions = self._in_use(question) if question.period else self._candidate_and_used(question)
        event = self._charged(question) if self._policy.count_epsilon else None
        counts = self._counted(versions)
        if question.period and self._own_checks.note(question.number, question.period, counts):
            self._on_drift(question.run_id)
        if event is None:
            return
        first, second = noised(counts, event, self._source())
        statement = CountsStatement(
            federation=self._identity.trust().federation,
            site=self._name,
            purpose=question.purpose,
            run_id=question.run_id,
            adapter_digest=versions[0].adapter.digest(),
            number=question.number,
            period=question.period,
            first=first,
            second=second,
            deviation=event.noise_multiplier,
            epsilon=self._policy.count_epsilon,
            delta=self._policy.delta,
        )
        file = self._place(question)
        make_private_folder(file.parent)
        write_atomically(file, sign_counts(self._identity.key, statement), mode=PRIVATE)
        self._release(question)

    def _charged(self, question: Question) -> SampledGaussian:
        """What the counts cost, durably reserved before a record is read.

        Raises:
            PolicyError: so many answers as the policy allows were given.
            BudgetError: they do not fit the budget.
        """
        given = {charge.job_id for charge in self._ledger.charges() if COUNTS_MARK in charge.job_id}
        if len(given - {question.charge}) >= self._policy.count_answers:
            raise PolicyError("all answers that policy.count_answers allows were given")
        if self._ledger.has_released(question.charge):
            raise PolicyError("its counts were given already, and their file is gone")
        event = counts_event(self._policy.count_epsilon, self._policy.delta)
        self._ledger.approve(question.charge, event, 1)
        self._ledger.reserve(question.charge, 0, event)
        return event

    def _counted(self, versions: Sequence[Judged]) -> np.ndarray:
        """Whatever goes wrong from here on is paid for, and counts as nothing seen."""
        try:
            records, unit = self._records(), self._policy.unit
            with self._session.lock:
                found = [measure(one, records, self._session, unit=unit, progress=self._progress) for one in versions]
            return check_counts(found[0]) if len(found) == 1 else vote_counts(*found)
        except Exception as error:  # The type alone: its text might quote a record.
            self._on_fault(f"a version could not be measured: {type(error).__name__}")
            return np.zeros(2)

    def _release(self, question: Question) -> None:
        self._ledger.mark_released(question.charge, 0)
        self._ledger.finish(question.charge)

    def _candidate_and_used(self, question: Question) -> tuple[Judged, Judged]:
        """A candidate as it was delivered, and what is in use here.

        Raises:
            PolicyError: nothing is in use, or it is of another task.
            YoriaiError: the candidate does not hold, as `read_bundle`.
        """
        data = ChannelPlace(self._folder, STAGING).delivered_file(question.number).read_bytes()
        bundle, used = read_bundle(data, self._identity.trust(), STAGING), _used(self._folder)
        if bundle.job.task != used.job.task:
            raise PolicyError("the candidate is of another task than the version in use")
        return Judged(bundle.job, bundle.adapter), used

    def _in_use(self, question: Question) -> tuple[Judged]:
        if ChannelPlace(self._folder, PRODUCTION).current() != question.number:
            raise PolicyError("another version is in use here")
        return (_used(self._folder),)

    def _place(self, question: Question) -> Path:
        return counts_file(self._folder, question.name)


def _used(folder: Path) -> Judged:
    """The version in use in production.

    Raises:
        PolicyError: there is none whose job is known.
    """
    link = ChannelPlace(folder, PRODUCTION).link
    try:
        job = JobConfig.model_validate_json((link / JOB).read_bytes())
        return Judged(job, AdapterState.from_bytes((link / VERSION).read_bytes()))
    except (OSError, ValueError):
        raise PolicyError(
            "no version is in use here, or one that an earlier Yoriai pulled", remedy="yoriai site pull DIR"
        ) from None
