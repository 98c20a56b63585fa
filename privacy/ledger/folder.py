"""A site's ledgers in one folder, one a data set, and the rule that a data set has one budget under whatever name.

A data set is the operator's name and a fingerprint of its records. Changed records go on with the same ledger. Records
that are known in this folder under another name are refused: the same budget must not be had twice.

Not covered: a copy with a record changed, added or left out, which has another fingerprint; a copy in another folder or
at another site.
"""

import re
from contextlib import ExitStack
from pathlib import Path

from yoriai.errors import LedgerError
from yoriai.privacy.dp.accounting import Costing, cost
from yoriai.privacy.ledger.file import faults
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.privacy.ledger.witness import second_place
from yoriai.system.files import locked_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".sqlite"


def ledgers_in(folder: Path) -> list[Path]:
    """The ledger files of a folder, by name."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if not path.name.startswith("."))


def open_in_folder(
    folder: Path,
    dataset: str,
    fingerprint: str,
    policy: Policy,
    *,
    witnesses: Path | None = None,
    costing: Costing = cost,
) -> Ledger:
    """Open the ledger of a data set, `folder`/`dataset`.sqlite, made if there is none.

    Args:
        dataset: the operator's name for it: 1 to 64 letters, digits, dots, dashes and underscores.
        fingerprint: of the records as they are now.
        witnesses: folder of all these ledgers' second places, best on another disk; None: beside each ledger.
        costing: as for `Ledger.open`.

    Raises:
        LedgerError: the records belong to another name, that data set's ledger cannot be read, or as `Ledger.open`.
    """
    if not _NAME.fullmatch(dataset):
        raise LedgerError(
            "the name of a data set does not fit a file's name",
            found=repr(dataset[:80]),
            expected="1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    own = folder / f"{dataset}{_SUFFIX}"

    def witness(path: Path) -> Path | None:
        return witnesses and second_place(witnesses / path.name)

    with ExitStack() as held:
        with faults(own):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked_folder(folder))
        for path in ledgers_in(folder):
            if path != own:
                _refuse_twin(path, dataset, fingerprint, witness(path))
        return Ledger.open(
            own,
            dataset=dataset,
            epsilon_budget=policy.epsilon_budget,
            delta=policy.delta,
            accountant=policy.accountant,
            unit=policy.unit,
            fingerprint=fingerprint,
            witness=witness(own),
            costing=costing,
        )


def _refuse_twin(path: Path, dataset: str, fingerprint: str, witness: Path | None) -> None:
    with Ledger.existing(path, witness=witness) as other:
        if fingerprint in other.fingerprints():
            raise LedgerError(
                f"the records of data set {dataset} are those of data set {other.dataset} under another name",
                found=f"their fingerprint {fingerprint[:16]}… in {path.name}",
                expected="one ledger for one data set, for good",
                remedy=f"name the data set {other.dataset}, whose budget goes on",
            )
