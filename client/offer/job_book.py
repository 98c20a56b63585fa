"""The jobs that were offered to a site, and what its operator decided about each: one small file a run.

    jobs/<digest of the run's id>.json    terms, state, when and by whom it was decided
    jobs/decisions.jsonl                  every decision, with its reason: decision_log.py

What an entry holds, and what of it a yes is about: `job_entry.py`. The same run offered with other terms waits anew;
the same terms, in a run that is resumed, need no second yes. A no is about the run: whatever is offered under its id is
refused, until the operator takes the no back.

Run ids and jobs come from a coordinator, which may be hostile: ids are bounded and never part of a path, a job has a
largest size, and of each state but one only the newest are kept. The daemon and the commands of the operator write
under one lock, each time from what the file holds then.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from yoriai.client.offer.decision_log import LONGEST_REASON, DecisionLog
from yoriai.client.offer.job_entry import OVER, Entry, State, Terms, read_entry
from yoriai.errors import ConfigError, PolicyError, StorageError
from yoriai.system.files import PRIVATE, locked_folder, make_private_folder, sync, write_atomically
from yoriai.system.users import user_name

LONGEST_RUN_ID = 128
LARGEST_ENTRY_BYTES = 256 * 1024
# How many are kept of each state; the oldest go. An approved run that is forgotten waits anew. Refused ones stay, one
# for each command of the operator: forgotten, such a run would be taken where policy.approve is auto.
MOST: Mapping[State, int] = {
    "waiting": 100, "declined": 100, "approved": 1000, "accepted": 1000, "delivered": 1000, "ended": 1000,
}  # fmt: skip


class JobBook:
    """The entries of one site. Safe for the daemon and the operator's commands at once.

    Args:
        folder: made, for its owner alone, when missing.
        clock: seconds since the epoch.

    Raises:
        StorageError: the folder cannot be made, or is open to others.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = make_private_folder(folder), clock
        self._decisions = DecisionLog(self._folder, clock)

    def consider(self, terms: Terms, *, rounds_done: int | None = None) -> Entry:
        """The entry of an offer: the one that is there for these terms, else a new one, which waits.

        A run that is refused or over keeps its entry, whatever is offered.

        Args:
            rounds_done: of the run, by the coordinator's word; None if it does not say.

        Raises:
            PolicyError: the run's id, or the job, is too long to be kept, or the id cannot be shown.
        """
        check_run_id(terms.run_id)
        with self._writing():
            entry = self.entry(terms.run_id)
            is_new = entry is None or entry.state == "declined" or entry.terms.digest != terms.digest
            if entry is None or (is_new and entry.state not in ("refused", *OVER)):
                entry = self._offered(Entry(terms=terms, seen_at=self._clock()), rounds_done)
                self._put(entry)
                self._forget_the_oldest("waiting")
            elif entry.state in ("waiting", "approved"):  # Of the others no one asks when they begin.
                entry = self._offered(entry, rounds_done)
                self._put(entry)
            return entry

    def _offered(self, entry: Entry, rounds_done: int | None) -> Entry:
        """The entry after one more offer."""
        offers = entry.offers + 1 if rounds_done == entry.offered_after else 1
        changes = {"offered_at": self._clock(), "offered_after": rounds_done, "offers": offers, "reason": ""}
        return entry.model_copy(update=changes)

    def decline(self, terms: Terms, reason: str) -> None:
        """Record that the site itself declines an offer, and why. What an operator has decided about stands.

        Args:
            terms: as far as they are known.

        Raises:
            PolicyError: the run's id, or the job, is too long to be kept.
        """
        check_run_id(terms.run_id)
        with self._writing():
            entry = self.entry(terms.run_id)
            now, reason = self._clock(), reason[:LONGEST_REASON]
            if entry is None or entry.state in ("waiting", "declined"):
                seen = entry.seen_at if entry else now
                self._put(Entry(terms=terms, state="declined", seen_at=seen, offered_at=now, reason=reason))
                self._forget_the_oldest("declined")
            elif entry.state in ("approved", "accepted"):
                self._put(entry.model_copy(update={"reason": reason}))

    def accept(self, terms: Terms, *, decided_by: str = "") -> None:
        """Record that the site takes part in a job.

        Args:
            decided_by: who decided, where nobody was asked; whoever approved it by name stays.

        Raises:
            PolicyError: the operator has refused it meanwhile, or these are no longer the terms.
        """
        with self._writing():
            entry = self.entry(terms.run_id) or Entry(terms=terms, seen_at=self._clock())
            if entry.terms.digest != terms.digest or entry.state in ("refused", *OVER):
                raise PolicyError(f"run {terms.run_id} was decided otherwise meanwhile", remedy="offer it again")
            if entry.state == "accepted" and entry.terms == terms and not entry.reason:
                return
            if entry.state == "waiting":
                self._decisions.add("accepted", by=decided_by, run=terms.run_id, terms=terms.digest)
                entry = entry.model_copy(update={"decided_at": self._clock(), "decided_by": decided_by})
            # A resumed run may bring the same sites in a roster that was signed again: the newest counts.
            self._put(entry.model_copy(update={"state": "accepted", "terms": terms, "reason": ""}))
            self._forget_the_oldest("accepted")

    def decide(self, shown: Entry, state: Literal["approved", "refused"], *, by: str, reason: str = "") -> Entry:
        """Record the operator's decision about what they were shown; an approved job that runs already stays accepted.

        Args:
            by: who decides.
            reason: in their words.

        Raises:
            ConfigError: the run was offered with other terms meanwhile, it has ended, or the site declines it itself.
        """
        with self._writing():
            entry = self.entry(shown.run_id)
            if entry is None or entry.terms.digest != shown.terms.digest:
                raise ConfigError(
                    f"run {shown.run_id} was offered with other terms meanwhile", remedy="look at them, and decide anew"
                )
            if entry.state in OVER:
                raise ConfigError(f"run {shown.run_id} has ended", remedy="there is nothing left to decide")
            if state == "approved" and entry.state in ("approved", "accepted"):
                return entry
            if state == "approved" and entry.state == "declined":
                raise ConfigError(
                    f"the site's own policy declines run {shown.run_id}",
                    found=entry.reason,
                    remedy="change the policy, or have the job changed; it is then offered to you",
                )
            self._decisions.add(state, by=by, reason=reason, run=shown.run_id, terms=entry.terms.digest)
            entry = entry.model_copy(update={"state": state, "decided_at": self._clock(), "decided_by": by})
            self._put(entry)
            if state in MOST:
                self._forget_the_oldest(state)
            return entry

    def finish(self, run_id: str, adapter_digest: str, rounds_done: int) -> None:
        """Record the end of a run after so many rounds; without a digest, no adapter comes."""
        state: State = "delivered" if adapter_digest else "ended"
        with self._writing():
            entry = self.entry(run_id)
            if entry is not None and entry.state not in OVER:
                changes = {"state": state, "adapter_digest": adapter_digest, "rounds_done": rounds_done}
                self._put(entry.model_copy(update=changes))
                self._forget_the_oldest(state)

    def release(self, run_id: str, *, by: str, reason: str = "") -> Entry:
        """Record that the operator gives an accepted run up: it is over here. One that is over stays as it is.

        Raises:
            ConfigError: the site does not take part in it.
        """
        with self._writing():
            entry = self.entry(run_id)
            if entry is None or entry.state not in ("accepted", *OVER):
                raise ConfigError(
                    f"this site does not take part in run {run_id}",
                    found=entry.state if entry else "",
                    remedy=f"refuse it: yoriai site refuse DIR {run_id}",
                )
            if entry.state == "accepted":
                self._decisions.add("released", by=by, reason=reason, run=run_id, terms=entry.terms.digest)
                changes = {"state": "ended", "decided_at": self._clock(), "decided_by": by}
                entry = entry.model_copy(update=changes)
                self._put(entry)
                self._forget_the_oldest("ended")
            return entry

    def entry(self, run_id: str) -> Entry | None:
        """The entry of a run; None if there is none.

        Raises:
            StorageError: it is damaged, or of another version.
        """
        try:
            check_run_id(run_id)
            return read_entry(self._place(run_id))
        except (PolicyError, FileNotFoundError):
            return None

    def entries(self) -> list[Entry]:
        """All entries, those seen last at the end.

        Raises:
            StorageError: one is damaged, or of another version.
        """
        found = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # It may go while the list is read.
                found.append(read_entry(path))
        return sorted(found, key=lambda entry: (entry.seen_at, entry.run_id))

    def find(self, text: str) -> Entry:
        """The one run that an operator means: by its id, the beginning of it, or the name of its job.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if (exact := self.entry(text)) is not None:
            return exact
        means = [e for e in self.entries() if text and (e.run_id.startswith(text) or e.terms.job.get("name") == text)]
        if len(means) == 1:
            return means[0]
        found = ", ".join(entry.run_id for entry in means[:8])
        what = f"{len(means)} runs are called so" if means else "no job that was offered here is called so"
        raise ConfigError(f"{what}: {text[:80]!r}", found=found, remedy="see them with: yoriai site jobs DIR")

    def _place(self, run_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.json"

    def _put(self, entry: Entry) -> None:
        data = entry.model_dump_json(by_alias=True, indent=1).encode()
        if len(data) > LARGEST_ENTRY_BYTES:
            raise PolicyError(
                "the offered job is too large to be kept for the operator",
                found=f"{len(data)} bytes",
                expected=f"at most {LARGEST_ENTRY_BYTES}",
            )
        write_atomically(self._place(entry.run_id), data, mode=PRIVATE)

    def _forget_the_oldest(self, state: State) -> None:
        kept = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(StorageError):  # What cannot be read is for its operator to see to.
                entry = read_entry(path)
                if entry.state == state:
                    kept.append((entry.seen_at, path))
        for _, path in sorted(kept)[: -MOST[state]]:
            path.unlink(missing_ok=True)
        sync(self._folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Nobody else writes meanwhile. A file of root's would be one that the site's own user cannot read."""
        owner = self._folder.stat().st_uid
        if os.geteuid() != owner:
            user = user_name(owner)
            raise StorageError(f"{self._folder} belongs to user {user}", remedy=f"run the command as {user}")
        with locked_folder(self._folder):
            yield


def check_run_id(run_id: str) -> None:
    """Raise PolicyError unless a run's id is one that can be kept, shown and typed."""
    if not 1 <= len(run_id) <= LONGEST_RUN_ID or not run_id.isprintable() or run_id != run_id.strip():
        raise PolicyError(
            "a run's id cannot be shown to an operator", expected=f"1 to {LONGEST_RUN_ID} printable characters"
        )
