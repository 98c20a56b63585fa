"""What a site's ledger calls what is no round of a run: the run's personal adapter, and counts about its version.

Behind the run's id stands a mark that no job's run may hold, for a coordinator could otherwise name a run so that its
rounds pass for such a charge.
"""

from typing import Final, Literal

PERSONAL_MARK: Final = "/personal"
COUNTS_MARK: Final = "/counts"
MARKS: Final = (PERSONAL_MARK, COUNTS_MARK)
ChargeKind = Literal["round", "personal", "counts"]


def run_and_kind(charged: str) -> tuple[str, ChargeKind]:
    """Of a job as the ledger names it: the run that it is about, and what was charged."""
    run, found, _ = charged.partition(COUNTS_MARK)
    if found:
        return run, "counts"
    run, found, _ = charged.partition(PERSONAL_MARK)
    return run, "personal" if found else "round"
