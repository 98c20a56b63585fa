"""The records that a job can be taught by, where no answer of the site may show which they are, or how many.

A coordinator may offer any job, and nothing pays for the answer to an offer. So a record that does not fit the job
(another kind, a label outside the set, too long to be used, without an owner where owners are protected) stops nothing:
it counts as a unit whose gradient is zero. It is left out of what is drawn from, which comes to the same. Each unit is
drawn by itself, so a sum to which one adds zero when it is drawn has the distribution of a sum without it. Whether a
record fits depends on that record and on the job alone; two neighbouring data sets therefore stay neighbours, or become
equal. An owner's records are chosen from those of theirs that fit. A site of misfits, or without records, trains on
noise alone, and is charged like any other.

What did not fit is counted for the site's own eyes. Where a user owns all records, as in a simulation, misfits are
errors instead, found before anything is trained (`ModelSession.prepare`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yoriai.client.records.control_tokens import Tokenizer
from yoriai.client.records.encoding import Example, encode_fitting, fault_at_sight, label_indices, suits
from yoriai.client.records.records import Record
from yoriai.client.records.units import Units, owner_name, owner_units
from yoriai.config import PolicySection, PrivacySection, TaskSection

_NO_OWNER = "without an owner"


@dataclass(frozen=True)
class Fitting:
    """The records that fit, as examples, and what there is to say of the others.

    Attributes:
        examples: one a record that fits, in the records' order.
        units: the examples of each owner; None where each example is a unit.
        misfits: numbers of records by what is wrong with them.
        first: the place of the first misfit; empty without one.
        total: records in all.
    """

    examples: tuple[Example, ...]
    units: Units | None
    misfits: Mapping[str, int]
    first: str
    total: int

    def told(self) -> str:
        """The misfits in a sentence for the site's own eyes; empty where every record fits."""
        if not self.misfits:
            return ""
        return f"{_counted(self.misfits, self.total)}, the first: {self.first}"


def fitting(
    records: Sequence[Record],
    task: TaskSection,
    privacy: PrivacySection,
    tokenizer: Tokenizer,
    *,
    context_tokens: int,
) -> Fitting:
    """The records that fit a job; nothing of them raises an error.

    Raises:
        ConfigError: as `encoding.check_task`.
    """
    owned = [i for i, record in enumerate(records) if privacy.unit != "owner" or owner_name(record)]
    encoded = encode_fitting([records[i] for i in owned], tokenizer, task, context_tokens=context_tokens)
    wrong = dict.fromkeys(sorted(set(range(len(records))) - set(owned)), _NO_OWNER)
    wrong |= {owned[misfit.record]: misfit.fault.what for misfit in encoded.misfits}
    kept = [records[owned[i]] for i in encoded.fitting]
    return Fitting(
        encoded.examples,
        owner_units(kept, privacy),
        Counter(wrong.values()),
        (records[min(wrong)].place or "a record") if wrong else "",
        len(records),
    )


def fit_at_sight(records: Sequence[Record], task: TaskSection, privacy: PrivacySection) -> str:
    """How many records fit a job as far as that shows without tokens, in words for the site's own eyes."""
    wrong, labels = Counter[str](), label_indices(task)
    for record in records:
        if privacy.unit == "owner" and not owner_name(record):
            wrong[_NO_OWNER] += 1
        elif (fault := fault_at_sight(record, task, labels)) is not None:
            wrong[fault.what] += 1
    return _counted(wrong, len(records)) if wrong else f"all {len(records)} records fit, lengths aside"


def is_as_said(record: Record, policy: PolicySection) -> bool:
    """Whether a record is as the policy says in public: of one of its kinds, with one of its labels if it has one."""
    if policy.kinds and not any(suits(record, kind) for kind in policy.kinds):
        return False
    return not policy.labels or record.response is None or record.response in policy.labels


def _counted(misfits: Mapping[str, int], total: int) -> str:
    reasons = "; ".join(f"{what}: {count}" for what, count in misfits.items())
    return f"{sum(misfits.values())} of {total} records do not fit and count as zero ({reasons})"
