"""How an epsilon is shown, and what it leaves open (unit, neighbours, accountant): every report, table and error."""

from typing import Final

_ACCOUNTANTS: Final[dict[str, str]] = {"pld": "PLD", "prv": "PRV", "rdp": "RDP"}


def adjacency(unit: str) -> str:
    """Which data sets are neighbours: `add or remove one record`, or `one owner`."""
    return f"add or remove one {unit}"


def per_unit(unit: str) -> str:
    """What an epsilon is of: `per record (add or remove one record)`."""
    return f"per {unit} ({adjacency(unit)})"


def accountant_name(accountant: str) -> str:
    """The accountant's name for readers, in capitals."""
    return _ACCOUNTANTS.get(accountant, accountant)


def epsilon_text(epsilon: float | None, places: int = 2) -> str:
    """An epsilon that was worked out, for readers: `none`, 3.14, and 0.0012 where decimals alone would show nothing.

    The one way in which it is shown. A setting is shown as whoever set it wrote it.

    Args:
        places: decimals and, below 0.1, significant digits.
    """
    if epsilon is None:
        return "none"
    if 0.0 < abs(epsilon) < 0.1:
        return f"{epsilon:.{places}g}".replace("e-0", "e-")
    return f"{epsilon:.{places}f}"


def terms(unit: str, accountant: str | None) -> str:
    """Both: `per record (add or remove one record), by PLD`."""
    return f"{per_unit(unit)}, by {accountant_name(accountant)}" if accountant else per_unit(unit)
