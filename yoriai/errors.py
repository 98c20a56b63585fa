"""The one tree of errors. Every message says what is wrong, what was found, what was expected and what to do.

Messages and attributes never hold record text, tensors or secrets: an error may travel to the coordinator's log.
"""

from typing import ClassVar

EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
EXIT_PARTIAL = 4
EXIT_INTERRUPTED = 130


class YoriaiError(Exception):
    """Root of every error that Yoriai raises on purpose.

    Args:
        what: the fault in one clause, with the place (file and line, site, setting).
        found: what stood there, if it may be shown.
        expected: what would have been right.
        remedy: what the reader can do now.
    """

    exit_code: ClassVar[int] = EXIT_BAD_INPUT

    def __init__(self, what: str, *, found: str = "", expected: str = "", remedy: str = "") -> None:
        self.what, self.found, self.expected, self.remedy = what, found, expected, remedy
        parts = [what]
        if found:
            parts.append(f"found {found}")
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))

    def remedy_first(self) -> str:
        """The message with what to do before what is wrong, for a place that may cut it."""
        rest = str(YoriaiError(self.what, found=self.found, expected=self.expected))
        return f"{self.remedy}: {rest}" if self.remedy else rest

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the four texts, so that an error crosses a process boundary whole."""
        return (_rebuild, (type(self), self.what, self.found, self.expected, self.remedy))


def _rebuild(kind: type[YoriaiError], what: str, found: str, expected: str, remedy: str) -> YoriaiError:
    error = kind.__new__(kind)
    YoriaiError.__init__(error, what, found=found, expected=expected, remedy=remedy)
    return error


class ConfigError(YoriaiError):
    """A job or site file is wrong; `faults` lists every fault found in it, not just the first."""

    faults: tuple[YoriaiError, ...] = ()

    def __init__(self, what: str, *, faults: tuple[YoriaiError, ...] = (), **texts: str) -> None:
        super().__init__(what, **texts)
        self.faults = faults


class RecordError(YoriaiError):
    """Records cannot be read, or do not fit the task. Names file and line, never the text."""


class AssetError(YoriaiError):
    """A packaged base model or data set cannot be fetched, or is not the one that was pinned."""


class BaseModelError(YoriaiError):
    """The base model cannot be loaded, does not match the job's digest, or does not fit the LoRA settings."""


class AdapterError(YoriaiError):
    """An adapter's names, shapes or values are not those that were agreed."""


class WireError(YoriaiError):
    """Bytes from another party are not a message of this protocol version."""


class LedgerError(YoriaiError):
    """The ledger file is damaged, locked or was tampered with."""


class StorageError(YoriaiError):
    """A file or folder of Yoriai's own cannot be written or read."""


class CheckpointError(StorageError):
    """A run's stored state cannot be written or read back."""


class DaemonError(YoriaiError):
    """The site's daemon is not there, is there twice, cannot be talked to, or has no time."""

    exit_code = EXIT_PARTIAL


class ServerError(YoriaiError):
    """The coordinator's server cannot be reached, or who answers there is not the server."""

    exit_code = EXIT_PARTIAL


class TrainingError(YoriaiError):
    """Training went wrong at a site (a loss that is not a number); no update was sent."""

    exit_code = EXIT_PARTIAL


class RoundError(YoriaiError):
    """Too few sites answered for the round to count."""

    exit_code = EXIT_PARTIAL


class AwayError(RoundError):
    """Too few sites are there for a round to begin, and others may still come: no site was asked to train."""


class RefusedError(YoriaiError):
    """A site's own rules forbid what the job asks for."""

    exit_code = EXIT_REFUSED


class PolicyError(RefusedError):
    """The job breaks the site's policy."""


class BudgetError(RefusedError):
    """The privacy budget of a data set does not cover what the job asks for."""


class UsedUpError(BudgetError):
    """Every round of the run is used at the site, the spare ones too: it will never have another one."""


class IdentityError(RefusedError):
    """A certificate, a roster or a revocation list is not one that the pinned federation CA stands behind."""


class ProtocolError(RefusedError):
    """A message of secure aggregation is malformed, forged, replayed, out of order or asks for too much."""


class SpentError(ProtocolError):
    """The update may already have left the site in a masked input; it never enters another one."""
