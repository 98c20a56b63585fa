"""What a bare epsilon leaves open (unit, neighbours, accountant), in the words of every report, table and error."""

from typing import Final

from yoriai.privacy.accounting import Accountant

_ACCOUNTANTS: Final[dict[str, str]] = {"pld": "PLD", "prv": "PRV", "rdp": "RDP"}


def adjacency(unit: str) -> str:
    """Which data sets are neighbours: `add or remove one record`, or `one owner`."""
    return f"add or remove one {unit}"


def per_unit(unit: str) -> str:
    """What an epsilon is of: `per record (add or remove one record)`."""
    return f"per {unit} ({adjacency(unit)})"


def accountant_name(accountant: Accountant | str) -> str:
    """The accountant's name for readers, in capitals."""
    return _ACCOUNTANTS.get(accountant, accountant)


def terms(unit: str, accountant: Accountant | str | None) -> str:
    """Both: `per record (add or remove one record), by PLD`."""
    return f"{per_unit(unit)}, by {accountant_name(accountant)}" if accountant else per_unit(unit)
