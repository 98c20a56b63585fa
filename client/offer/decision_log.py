"""What was decided about jobs and budget at a site, by whom and why: one line a decision, appended and never changed.

    jobs/decisions.jsonl    JSON lines: at, what, by, reason, and the run and the digest of its terms, if it is of one

The book of jobs shows how things stand; this shows how they came to. What the site declines by its policy is no
decision, and as many lines as a coordinator likes: it stands in the daemon's log. Whoever owns the folder could still
rewrite the file: it is a record for honest hands, and belongs into the backup.
"""

import json
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from yoriai.errors import ConfigError, StorageError
from yoriai.system.files import PRIVATE, cannot_write
from yoriai.system.users import user_name

NAME = "decisions.jsonl"
LONGEST_REASON = 500
_LONGEST_LINE_BYTES = 8192
_UNSET_LOGIN = 2**32 - 1


@dataclass(frozen=True)
class Decision:
    """One line.

    Attributes:
        at: seconds since the epoch.
        what: approved, refused, released, accepted, raised or witness.
        by: the person, as `operator_name` has them, or what else decided.
        reason: in their words; empty if they gave none.
        run: the run's id; empty for a decision about the budget.
        terms: digest of what was decided about.
    """

    at: float
    what: str
    by: str
    reason: str = ""
    run: str = ""
    terms: str = ""


class DecisionLog:
    """The decisions of one site.

    Args:
        folder: of the job book; there already.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = folder / NAME, clock

    def add(self, what: str, *, by: str, reason: str = "", run: str = "", terms: str = "") -> None:
        """Append a decision; durable when it returns.

        Raises:
            StorageError: it cannot be written. What was to be decided must not be then.
        """
        line = json.dumps(asdict(Decision(self._clock(), what, by, reason[:LONGEST_REASON], run, terms))) + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
            try:
                os.write(descriptor, line.encode()[:_LONGEST_LINE_BYTES])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def all(self) -> list[Decision]:
        """Every decision, the oldest first; a line that was cut by a crash is left out.

        Raises:
            StorageError: it cannot be read.
        """
        found = []
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read", found=error.strerror or type(error).__name__) from None
        for line in lines:
            with suppress(ValueError, TypeError):
                found.append(Decision(**json.loads(line)))
        return found


def checked_reason(reason: str) -> str:
    """A reason as it may be kept.

    Raises:
        ConfigError: it is too long.
    """
    if len(reason) > LONGEST_REASON:
        raise ConfigError(
            "--reason is too long", found=f"{len(reason)} characters", expected=f"at most {LONGEST_REASON}"
        )
    return reason.strip()


def operator_name() -> str:
    """Who decides: the user that runs this process, and the person who became that user, by sudo or by their login."""
    user, before = user_name(os.getuid()), os.environ.get("SUDO_USER", "") or _logged_in()
    return f"{user} ({before})" if before and before.isprintable() and before != user else user


def _logged_in() -> str:
    """Who logged in, by the kernel's word, whatever they became since; empty where nobody did."""
    with suppress(OSError, ValueError, KeyError):
        uid = int(Path("/proc/self/loginuid").read_text())
        return "" if uid == _UNSET_LOGIN else pwd.getpwuid(uid).pw_name
    return ""
