"""What checkpoint.json holds of a run, how it is read, and how far the run has got by it. No adapter is read here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from yoriai.errors import CheckpointError
from yoriai.server.round.migration import SCHEMA, migrated

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class RoundRecord:
    """What the coordinator knows of one finished round.

    Bytes are those of the messages by site since the last record: those of the first one hold the job's offer too.
    `clipped` counts the coordinates that the secure sum's range clipped. `voided` says why the round was begun afresh,
    and `voided_masked` how often sites had masked by then. `factors` are the digests of the adapter's parts, by which
    `Registry.adapter_after` finds it again. `roster_digest` is the signed roster's, empty without secure aggregation.
    """

    round_index: int
    answered: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    update_norm: float
    seconds: float
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    adapter_digest: str
    clipped: int | None = None
    voided: tuple[str, ...] = ()
    voided_masked: int = 0
    factors: dict[str, str] = field(default_factory=dict)
    roster_digest: str = ""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class AdapterEntry(_Stored):
    """An adapter, by the digests of its parts."""

    digest: _Digest
    factors: dict[str, _Digest] = Field(min_length=1)


class FactorGroupEntry(_Stored):
    """What goes on from round to round for the factors of one group."""

    optimizer_state: _Digest
    value_range: float | None


class Manifest(_Stored):
    """What checkpoint.json holds."""

    schema_: Literal[3] = Field(default=SCHEMA, alias="schema")
    run_id: str
    job_digest: str
    next_round: int
    adapter: AdapterEntry
    rounds: tuple[RoundRecord, ...]
    lanes: dict[str, FactorGroupEntry]
    ledger_heads: dict[str, str] = Field(default_factory=dict)
    base_digest: str
    delivered: dict[str, str]
    ended_early: str = Field(default="", exclude_if=lambda why: not why)


def read_manifest(folder: Path) -> Manifest | None:
    """What checkpoint.json of a run's folder holds; None when there is none.

    Raises:
        CheckpointError: it is damaged, or of a version that cannot be read.
    """
    path = folder / "checkpoint.json"
    try:
        manifest = Manifest.model_validate_json(json.dumps(migrated(json.loads(path.read_bytes()), path)))
        if len(manifest.rounds) != manifest.next_round:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, error) from error
    return manifest


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error of a checkpoint that cannot be read as a whole."""
    return CheckpointError(
        f"{folder / 'checkpoint.json'}, or a file that it names, is damaged or missing",
        found=type(error).__name__,
        remedy="start the run again in a new folder",
    )


@dataclass(frozen=True)
class Summary:
    """How far a run has got.

    Attributes:
        rounds: finished ones.
        adapter_digest: of the adapter after them.
        delivered: sites that have confirmed the last one.
        told: sites that have confirmed the end and have no part in it.
        ended_early: why no further round comes, in words; empty as long as one may.
        records: of the finished rounds, in order.
    """

    rounds: int = 0
    adapter_digest: str = ""
    delivered: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    ended_early: str = ""
    records: tuple[RoundRecord, ...] = ()


def summary_of(folder: Path) -> Summary:
    """How far the run in a folder has got, without reading an adapter or making anything; nothing done at first.

    Raises:
        CheckpointError: as `read_manifest`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return Summary()
    delivered = sorted(site for site, digest in manifest.delivered.items() if digest)
    told = sorted(manifest.delivered.keys() - set(delivered))
    return Summary(
        manifest.next_round,
        manifest.adapter.digest,
        tuple(delivered),
        tuple(told),
        ended_early=manifest.ended_early,
        records=manifest.rounds,
    )
