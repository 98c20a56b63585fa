"""What `site check` finds: one row a check, with a mark and, where it is no tick, what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from yoriai.errors import YoriaiError

Mark = Literal["ok", "warn", "fail"]
_SOON_DAYS = 30


@dataclass(frozen=True)
class Row:
    """One check: what was looked at, how it stands, what was found, and the remedy."""

    what: str
    mark: Mark
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def looked_at(what: str, look: Callable[[], Row]) -> Row:
    """The check's own row; an error that it meets is its cross."""
    try:
        return look()
    except YoriaiError as error:
        found = str(YoriaiError(error.what, found=error.found, expected=error.expected))
        return Row(what, "fail", found, error.remedy)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return Row(
            what, "fail", f"{place}{error.strerror or type(error).__name__}", "check it as root, or its own user"
        )


def until(what: str, expires: datetime, now: datetime, remedy: str) -> Row:
    """A row on something that expires: a cross once it has, a warning in its last 30 days."""
    left_s = (expires - now).total_seconds()
    days = int(left_s // 86_400)
    if left_s < 0:
        return Row(what, "fail", f"expired on {expires:%Y-%m-%d}", remedy)
    near = days < _SOON_DAYS
    return Row(what, "warn" if near else "ok", f"until {expires:%Y-%m-%d}, {days} days", remedy if near else "")


def passes(rows: Iterable[Row]) -> bool:
    """Whether there is no cross."""
    return all(row.mark != "fail" for row in rows)
