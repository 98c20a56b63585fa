"""What was measured of a version, from a file that its maker answers for: the gate of its job looks at it.

    {"schema": 1, "adapter_digest": DIGEST, "accuracy": 0.81, "sites": {"north": {"before": 0.60, "after": 0.80}}}

or the `report.json` of a run whose adapter it is. Shares of test records, 0 to 1; `interval` (95 %), `before` (of the
base) and `records` (how many) may stand next to them, for the model card. Sites may be left out, where each keeps what
it measures to itself. The server cannot check a figure; who promotes by a file stands for it, and the log
keeps the file's hash.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yoriai.errors import ConfigError
from yoriai.system.files import read_carried

_Share = Annotated[float, Field(ge=0, le=1)]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteScore(_Stored):
    """A site's accuracy without the adapter and with it."""

    before: _Share | None = None
    after: _Share


class Audit(_Stored):
    """What an audit of a job's settings found: `yoriai audit --json`, as far as a gate looks at it.

    Attributes:
        epsilon_claimed: by the ledger of the audited training.
        epsilon_lower: the highest lower bound on epsilon that was proved, each at `confidence`.
        trained_by, noise, delta: the settings that must be those of the version's job.
        refuted: whether a bound, or the noise, contradicts the claim.
        control_holds: whether the audit would have seen a fault.
    """

    epsilon_claimed: Annotated[float, Field(ge=0)]
    epsilon_lower: Annotated[float, Field(ge=0)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    trained_by: Annotated[str, Field(max_length=128)]
    noise: Annotated[str, Field(max_length=32)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    refuted: bool
    control_holds: bool


class Metrics(_Stored):
    """What was measured of one version.

    Attributes:
        accuracy: over all sites' test records; `interval` its 95 %, `before` that of the base, `records` how many.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    adapter_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    accuracy: _Share | None = None
    interval: tuple[_Share, _Share] | None = None
    before: _Share | None = None
    records: int | None = Field(default=None, ge=1)
    sites: dict[str, SiteScore] = Field(default_factory=dict)
    audit: Audit | None = Field(default=None, exclude_if=lambda audit: audit is None)


def read_metrics(path: Path) -> Metrics:
    """The metrics in a file.

    Raises:
        ConfigError: it is neither a file of metrics nor a run's report.
        StorageError: it cannot be read.
    """
    data = read_carried(path, "the file of metrics", at_most_mib=64)
    try:
        document = json.loads(data)
        return Metrics.model_validate(_of_report(document) if "adapter" in document else document)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path} holds no metrics of a version",
            expected='{"schema": 1, "adapter_digest": ..., "accuracy": 0 to 1, "sites": ...}, or a report.json',
            remedy="see docs/operate/versions.md",
        ) from None


def read_audit(path: Path) -> Audit:
    """What `yoriai audit --json` has written to a file.

    Raises:
        ConfigError: it is no audit.
        StorageError: it cannot be read.
    """
    try:
        found = json.loads(read_carried(path, "the file of an audit", at_most_mib=64))
        settings, both = found["settings"], (found["epsilon_lower_white_box"], found["epsilon_lower_black_box"] or 0.0)
        return Audit(
            epsilon_claimed=found["epsilon_ledger"],
            epsilon_lower=max(both) if all(map(math.isfinite, both)) else math.nan,  # Which is refused.
            confidence=found["confidence"],
            trained_by=settings["rule"],
            noise=settings["noise"],
            delta=settings["delta"],
            refuted=found["refuted"],
            control_holds=found["control_holds"],
        )
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path} holds no audit", expected="the output of yoriai audit --json", remedy="run it on the version's job"
        ) from None


def _of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a report.json says of its federated adapter."""
    sites = {
        site["name"]: {"before": _accuracy(site["base"]), "after": _accuracy(site["federated"])}
        for site in report["sites"]
        if _accuracy(site["federated"]) is not None
    }
    after = report["overall"]["federated"]
    whole = {"accuracy": _accuracy(after), "before": _accuracy(report["overall"].get("base"))}
    whole |= {"interval": after.get("interval"), "records": after.get("records") or None}
    return {"adapter_digest": report["adapter"]["digest"], **whole, "sites": sites}


def _accuracy(score: Mapping[str, Any] | None) -> float | None:
    found = (score or {}).get("accuracy")
    return found if isinstance(found, float | int) and math.isfinite(found) else None
