"""A job as a site's book keeps it: its terms, how it stands, and who decided it.

A yes is about terms: run, job, base, noise, and the sites with their weights. The roster's serial is no part of them,
so that a roster that is signed again with the same sites changes nothing.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yoriai.config import JobConfig
from yoriai.errors import ConfigError, StorageError

State = Literal["waiting", "declined", "approved", "refused", "accepted", "delivered", "ended"]
# Of runs that are over here: nothing is asked about them any more.
OVER: tuple[State, ...] = ("delivered", "ended")
_VERSION: Final = 1
# A coordinator that waits for a site offers a job to it several times a minute.
_OFFERED_NO_MORE_S: Final = 86_400.0


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Terms(_Stored):
    """What a job asks of the site, as the site itself has worked it out from an offer.

    Attributes:
        job: as it was offered.
        job_digest: of the job with its base; see `yoriai.config.job_digest`.
        weights, ranks: of the roster's sites; of the signed one's under secure aggregation.
        epsilon: what all rounds cost this site, the spare ones too, were they its only charges; None without privacy.
        accountant: behind epsilon.
        event: what one round costs this site, as `event_to_dict` has it; None without privacy, and in a book of an
            earlier version.
        roster_digest: of the signed roster (hex), by which the last adapter is known to be this run's; empty without
            secure aggregation. As the serial, no part of what is decided about.
    """

    run_id: str
    job: dict[str, Any]
    job_digest: str
    base_digest: str
    noise_multiplier: float | None
    roster_serial: int
    weights: dict[str, int]
    ranks: dict[str, int] = Field(default_factory=dict)
    epsilon: float | None = None
    accountant: str = ""
    roster_digest: str = ""
    event: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what a decision is about."""
        bound = [self.run_id, self.job_digest, self.noise_multiplier, self.weights, self.ranks]
        return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()

    def config(self) -> JobConfig:
        """The job.

        Raises:
            ConfigError: an earlier version took it, and this one does not.
        """
        try:
            return JobConfig.model_validate_json(json.dumps(self.job))
        except ValidationError:
            raise ConfigError(
                f"run {self.run_id} has settings that this version of Yoriai takes from no job",
                remedy="refuse it (yoriai site refuse), and have the coordinator submit the job anew",
            ) from None


class Entry(_Stored):
    """A job as the book has it. Times are seconds since the epoch; they decide only which of too many go.

    Attributes:
        state: waiting for the operator; declined by the site itself, as its policy or budget has it; approved or
            refused by the operator; accepted by the site, which then prepared for it;
            delivered, when its last adapter is here; ended, when it is over without one: by the coordinator's word, or
            because its operator gave it up.
        decided_by: the operator's user name, or what else decided.
        adapter_digest: of the last adapter; empty before it came.
        rounds_done: finished ones, by the coordinator's signed word; None before that.
        offered_at: when it was offered last; None in a book of an earlier version.
        offered_after: rounds that were finished when it was offered last; None where the coordinator does not say.
        reason: why the site itself declined the last offer; empty if it did not.
        offers: in a row after that many rounds. More than one: the coordinator waits for sites before the next round.
    """

    schema_: Literal[1] = Field(default=_VERSION, alias="schema")
    terms: Terms
    state: State = "waiting"
    seen_at: float
    decided_at: float | None = None
    decided_by: str = ""
    adapter_digest: str = ""
    rounds_done: int | None = None
    offered_at: float | None = None
    offered_after: int | None = None
    offers: int = 0
    reason: str = ""

    @property
    def run_id(self) -> str:
        """The run."""
        return self.terms.run_id


def is_current(entry: Entry, now: float) -> bool:
    """Whether something may still come of a job, or did: an adapter. `now` in seconds since the epoch.

    A job that its coordinator cancelled tells the sites nothing; it is offered no more.
    """
    if entry.state in ("waiting", "declined"):
        return now - (entry.offered_at or entry.seen_at) <= _OFFERED_NO_MORE_S
    return entry.state != "ended"


def read_entry(path: Path) -> Entry:
    """Read an entry from its file.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it is damaged, or of another version.
    """
    try:
        return Entry.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} is damaged, not readable or of another Yoriai version",
            found=_version_of(path) or type(error).__name__,
            expected=f"schema {_VERSION}",
            remedy="move the file away; the job is then offered anew",
        ) from None


def _version_of(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and content.get("schema") != _VERSION:
            return f"schema {str(content.get('schema'))[:20]}"
    return ""
