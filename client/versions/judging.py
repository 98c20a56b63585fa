"""A site's judgement of versions on its own newest test records: for its own eyes always, for others if policy says so.

    staging       a candidate that was delivered, against the version in use in production: the site's vote
    production    the version in use, whenever the server asks for another period: the site's check

What leaves is a pair of counts with noise (`counting.py`), signed, charged before a record is looked at, drawn once for
a version and period and kept; asked again, the site gives the same file. By default (`policy.count_epsilon` = 0)
nothing leaves but that it is withheld, and why; no reason depends on a record. The records are looked at after the
reply is out, when no job is at hand, and read anew from the site's folder.

A check also stays at the site exactly (`own_checks.py`), where it tells the operator of a version that came to answer
worse: also where no answer, or no more of them, may leave.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yoriai.client.offer.charge_names import COUNTS_MARK
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site_identity import SiteIdentity
from yoriai.client.versions.adapter_place import STATEMENT, VERSION
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.counting import Judged, check_counts, counts_event, measure, noised, vote_counts
from yoriai.client.versions.given_counts import counts_file
from yoriai.client.versions.own_checks import OwnChecks
from yoriai.client.versions.version_bundle import read_bundle
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import BudgetError, IdentityError, PolicyError, YoriaiError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.randomness import RandomSource, SystemSource
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.statements.counts_statement import CountsStatement, sign_counts
from yoriai.privacy.statements.version_statement import JOB_FILE, PRODUCTION, STAGING, unverified_version
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
    def charge(self) -> str:
        """The name under which the ledger keeps it."""
        return f"{self.run_id}{COUNTS_MARK}/{self.purpose}.{self.number}.{self.period}"

    @property
    def file_name(self) -> str:
        """Of the counts; a server that was restored from its backup gives a number a second time, to another run."""
        return f"{self.purpose}.{self.number}.{self.period}.{hashlib.sha256(self.run_id.encode()).hexdigest()[:12]}"


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
        self._waiting: dict[str, Question] = {}  # One vote and one check: a job may be at hand for long.
        self._withheld: dict[str, str] = {}

    def answer(self, question: Question) -> tuple[str, str]:
        """The signed counts, if they are there, and else why they are withheld; both empty while they are awaited."""
        place, may_leave = self._place(question), self._policy.count_epsilon > 0
        if may_leave and place.is_file():
            if not self._ledger.has_released(question.charge):  # A kill came between the file and the mark.
                self._release(question)
            return place.read_text(), ""
        if question.charge in self._withheld:
            return "", self._withheld[question.charge]
        if may_leave or (question.period and not self._own_checks.has(question.number, question.period)):
            self._waiting[question.purpose] = question
        return "", "" if may_leave else "policy.count_epsilon is 0: what this site's test records say stays there"

    def work_off(self) -> None:
        """Judge what was asked."""
        while self._waiting:
            _, question = self._waiting.popitem()
            try:
                self._judge(question)
            except YoriaiError as error:  # Budget, policy or the disk; the records are behind the charge.
                self._on_fault(f"{question.charge}: {error}")
                why = "the budget does not bear it" if isinstance(error, BudgetError) else "it cannot be judged here"
                if len(self._withheld) >= _MOST_KEPT:
                    self._withheld.clear()
                told = str(error)[:_LONGEST_REASON] if isinstance(error, PolicyError) else why
                self._withheld[question.charge] = told

    def _judge(self, question: Question) -> None:
        versions = self._in_use(question) if question.period else self._candidate_and_used(question)
        try:
            event = self._charged(question) if self._policy.count_epsilon else None
        except (BudgetError, PolicyError):
            self._check_for_itself(question, versions)
            raise
        if event is None:
            self._check_for_itself(question, versions)
            return
        counts = self._counted(versions)
        self._note(question, counts)
        statement = self._statement(question, versions[0].adapter.digest(), counts, event)
        file = self._place(question)
        make_private_folder(file.parent)
        write_atomically(file, sign_counts(self._identity.key, statement), mode=PRIVATE)
        self._release(question)

    def _statement(
        self, question: Question, adapter_digest: str, counts: np.ndarray, event: SampledGaussian
    ) -> CountsStatement:
        """The counts as they may leave; their noise is drawn here."""
        first, second = noised(counts, event, self._source())
        return CountsStatement(
            federation=self._identity.trust().federation,
            site=self._name,
            purpose=question.purpose,
            run_id=question.run_id,
            adapter_digest=adapter_digest,
            number=question.number,
            period=question.period,
            first=first,
            second=second,
            deviation=event.noise_multiplier,
            epsilon=self._policy.count_epsilon,
            delta=self._policy.delta,
        )

    def _check_for_itself(self, question: Question, versions: Sequence[Judged]) -> None:
        """A check of which nothing leaves, and for which nothing is charged, once a period."""
        if question.period and not self._own_checks.has(question.number, question.period):
            self._note(question, self._counted(versions))

    def _note(self, question: Question, counts: np.ndarray) -> None:
        if question.period and self._own_checks.note(question.number, question.period, counts):
            self._on_drift(question.run_id)

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
            PolicyError: nothing is in use, or it is of another task; or the question names another run.
            YoriaiError: the candidate does not hold, as `read_bundle`, or its job's model would not take its adapter.
        """
        data = ChannelPlace(self._folder, STAGING).delivered_file(question.number).read_bytes()
        bundle, used = read_bundle(data, self._identity.trust(), STAGING), _used(self._folder)
        _check_run(question, bundle.version.run_id)
        if bundle.job.task != used.judged.job.task:
            raise PolicyError("the candidate is of another task than the version in use")
        # Nothing is built for it before: its settings are the coordinator's, and bounded by what the adapter brings.
        self._session.check_adapter(bundle.job, bundle.adapter)
        return Judged(bundle.job, bundle.adapter), used.judged

    def _in_use(self, question: Question) -> tuple[Judged]:
        used = _used(self._folder)
        if used.number != question.number:
            raise PolicyError("another version is in use here")
        _check_run(question, used.run_id)
        return (used.judged,)

    def _place(self, question: Question) -> Path:
        return counts_file(self._folder, question.file_name)


@dataclass(frozen=True)
class _Used:
    """The version in use: its number in the channel, the run that it is of, and what is measured."""

    number: int
    run_id: str
    judged: Judged


def _used(folder: Path) -> _Used:
    """The version in use in production. The link is followed once: it may lead elsewhere a moment later.

    Raises:
        PolicyError: there is none whose job is known.
    """
    channel = ChannelPlace(folder, PRODUCTION)
    try:
        if (number := channel.current()) is None:
            raise FileNotFoundError
        place = channel.folder_of(number)
        job = JobConfig.model_validate_json((place / JOB_FILE).read_bytes())
        run_id = unverified_version((place / STATEMENT).read_bytes()).run_id
        return _Used(number, run_id, Judged(job, AdapterState.from_bytes((place / VERSION).read_bytes())))
    except (OSError, ValueError, IdentityError):
        raise PolicyError(
            "no version is in use here, or one that an earlier Yoriai pulled", remedy="yoriai site pull DIR"
        ) from None


def _check_run(question: Question, run_id: str) -> None:
    """Raise PolicyError unless a question names the run that its version is of: by its name counts are charged."""
    if question.run_id != run_id:
        raise PolicyError("the question names another run than the version is of")
