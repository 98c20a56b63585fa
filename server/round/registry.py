"""Adapter versions by content, and the checkpoint that a run resumes from. Every write is atomic.

    adapters/<digest>.safetensors   one factor over all maps; factors that stand still are stored once
    state/<digest>.bin              states of the server optimiser after the last round, one a factor group
    checkpoint.json                 which round comes next, and the digests that belong to it; see `manifest.py`

A file is written under a temporary name, synced, then renamed. A full disk or a kill leaves the last checkpoint as it
was.
"""

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from yoriai.errors import AdapterError, CheckpointError
from yoriai.server.round.manifest import AdapterEntry, FactorGroupEntry, Manifest, RoundRecord, damaged, read_manifest
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import EachRule, SumRule
from yoriai.system.run_files import run_file_fault, write_run_file


@dataclass(frozen=True)
class FactorGroup:
    """What goes on from round to round for factors that train together; a rule that alternates has several groups.

    Attributes:
        optimizer_state: bytes of the server optimiser's state; empty before the first round.
        value_range: public range of the group's next secure sum; None before the first, and without secure aggregation.
    """

    optimizer_state: bytes = b""
    value_range: float | None = None


def factor_group_of(rule: SumRule | EachRule, round_index: int) -> str:
    """The name of the factor group that a round belongs to: the factors that train in it."""
    return "+".join(rule.trainable(round_index))


@dataclass(frozen=True)
class Checkpoint:
    """The state between two rounds.

    Attributes:
        next_round: index of the round that comes next; the number of finished rounds.
        adapter: the adapter after them.
        rounds: one record a finished round.
        factor groups: by the factors that train together, such as "B" or "A+B".
        ledger_heads: by site, its newest signed commitment to its ledger, which it gets back with the next offer.
        base_digest: of the base model; empty in a run that an older version began.
        delivered: sites that confirmed the end, with the last adapter's digest; empty where they have no part in it.
        ended_early: why no further round comes, in words; empty as long as one may, and in a run that has them all.
    """

    run_id: str
    job_digest: str
    next_round: int
    adapter: AdapterState
    rounds: tuple[RoundRecord, ...] = field(default=())
    lanes: Mapping[str, FactorGroup] = field(default_factory=dict)
    ledger_heads: Mapping[str, str] = field(default_factory=dict)
    base_digest: str = ""
    delivered: Mapping[str, str] = field(default_factory=dict)
    ended_early: str = ""

    def factor_group(self, name: str) -> FactorGroup:
        """A factor group as it stands; an empty one before its first round."""
        return self.lanes.get(name, FactorGroup())


class Registry:
    """The folder of one run's versions.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            for name in ("adapters", "state"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise run_file_fault(folder, error) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint; what it refers to is durable before it is.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written; the last checkpoint still stands.
        """
        factors = factor_digests(checkpoint.adapter)
        for factor, digest in factors.items():
            self._put(f"adapters/{digest}.safetensors", checkpoint.adapter.select((factor,)).to_bytes)
        lanes = {}
        for name, factor_group in checkpoint.lanes.items():
            digest = hashlib.sha256(factor_group.optimizer_state).hexdigest()
            self._put(f"state/{digest}.bin", partial(bytes, factor_group.optimizer_state))
            lanes[name] = FactorGroupEntry(optimizer_state=digest, value_range=factor_group.value_range)
        manifest = Manifest(
            run_id=checkpoint.run_id,
            job_digest=checkpoint.job_digest,
            next_round=checkpoint.next_round,
            adapter=AdapterEntry(digest=checkpoint.adapter.digest(), factors=factors),
            rounds=checkpoint.rounds,
            lanes=lanes,
            ledger_heads=dict(checkpoint.ledger_heads),
            base_digest=checkpoint.base_digest,
            delivered=dict(checkpoint.delivered),
            ended_early=checkpoint.ended_early,
        )
        write_run_file(self._folder / "checkpoint.json", manifest.model_dump_json(by_alias=True, indent=1).encode())
        self._forget_states_but({factor_group.optimizer_state for factor_group in lanes.values()})

    def load(self) -> Checkpoint | None:
        """The last checkpoint; None when there is none.

        Raises:
            CheckpointError: it is damaged, of a version that cannot be read, or a file that it names is missing or
                altered.
        """
        manifest = read_manifest(self._folder)
        if manifest is None:
            return None
        try:
            return Checkpoint(
                run_id=manifest.run_id,
                job_digest=manifest.job_digest,
                next_round=manifest.next_round,
                adapter=self._adapter(manifest.adapter),
                rounds=manifest.rounds,
                lanes={
                    name: FactorGroup(self._state(factor_group.optimizer_state), factor_group.value_range)
                    for name, factor_group in manifest.lanes.items()
                },
                ledger_heads=manifest.ledger_heads,
                base_digest=manifest.base_digest,
                delivered=manifest.delivered,
                ended_early=manifest.ended_early,
            )
        except (OSError, ValueError, AdapterError) as error:
            raise damaged(self._folder, error) from error

    def adapter_after(self, record: RoundRecord) -> AdapterState:
        """The adapter after a finished round.

        Raises:
            CheckpointError: a file of it is missing or altered, or an older version did not note which ones they are.
        """
        try:
            return self._adapter(AdapterEntry(digest=record.adapter_digest, factors=record.factors))
        except (OSError, ValueError, AdapterError) as error:
            raise CheckpointError(
                f"{self._folder}: the adapter after round {record.round_index + 1} cannot be read",
                found=type(error).__name__ if record.factors else "a round of an older Yoriai version",
            ) from error

    def _adapter(self, entry: AdapterEntry) -> AdapterState:
        parts = [
            AdapterState.from_bytes((self._folder / "adapters" / f"{digest}.safetensors").read_bytes())
            for digest in entry.factors.values()
        ]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.merged_with(part)
        if whole.digest() != entry.digest:
            raise CheckpointError(f"{self._folder}: a stored adapter was altered", remedy="start the run again")
        return whole

    def _state(self, digest: str) -> bytes:
        data = (self._folder / "state" / f"{digest}.bin").read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(f"{self._folder}: a stored optimizer state was altered", remedy="start the run again")
        return data

    def _put(self, name: str, content: Callable[[], bytes]) -> None:
        path = self._folder / name
        if not path.exists():
            write_run_file(path, content())

    def _forget_states_but(self, digests: Collection[str]) -> None:
        """Adapters of past rounds are versions worth keeping; past states of the optimizer serve nobody."""
        for path in (self._folder / "state").glob("*.bin"):
            if path.stem not in digests:
                with contextlib.suppress(OSError):
                    path.unlink()


def last_checkpoint(registry: Registry, digests: Collection[str], run_id: str) -> Checkpoint | None:
    """What a run goes on from; None when nothing is stored.

    Args:
        digests: of its job, as `job_digests`.

    Raises:
        CheckpointError: the stored run belongs to another job, or is damaged.
    """
    stored = registry.load()
    if stored is not None and (stored.job_digest not in digests or stored.run_id != run_id):
        raise CheckpointError(
            "the stored run belongs to another job",
            remedy="resume with the job and base model it was started with, or choose another folder",
        )
    return stored


def factor_digests(adapter: AdapterState) -> dict[str, str]:
    """The digest of each factor over all maps, by which it is stored."""
    return {factor: adapter.select((factor,)).digest() for factor in adapter.factors()}
