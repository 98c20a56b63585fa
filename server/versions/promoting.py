"""A channel comes to hold another version: by its job's gate, by force with a reason, or back to the one before.

Everything is one transaction: of two who promote at once, the gate of the second compares with what the first put into
production; after a crash there are channel, log and metrics of the whole step, or of none of it.
"""

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from yoriai.config import GateSection
from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.version_statement import PRODUCTION, PromotionStatement, sign_promotion
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Standing, Version
from yoriai.server.versions.database import step, writing
from yoriai.server.versions.facts import stamp
from yoriai.server.versions.gate import Line, gate_lines
from yoriai.server.versions.log import append
from yoriai.server.versions.metrics import Metrics
from yoriai.server.versions.verdicts import votes_on


@dataclass(frozen=True)
class Signer:
    """Whose word a promotion is, and when it is given."""

    key: SigningKey
    federation: str
    by: str
    now: datetime


@dataclass(frozen=True)
class Promoted:
    """What a promotion came to: the row in force, its version, and the gate's lines."""

    standing: Standing
    version: Version
    lines: tuple[Line, ...]

    @property
    def told(self) -> list[str]:
        """In lines, for whoever did it."""
        gate = [f"{'holds' if line.holds else 'FAILS'}  {line}" for line in self.lines]
        row, version = self.standing, self.version
        return [*gate, f"{row.channel} holds {version.run} ({version.digest[:12]}) from now on, as number {row.number}"]


def promote(
    db: sqlite3.Connection,
    name: str,
    channel: str,
    *,
    gate: GateSection,
    metrics: Metrics | None,
    signer: Signer,
    force_why: str = "",
) -> Promoted:
    """Put a version into a channel, if it passes the gate of its job.

    Args:
        name: as `catalogue.find`.
        gate: of the version's job.
        metrics: of the version; None uses those that were given earlier.
        force_why: why it is to stand there although it does not pass; stays in the log with the lines that failed.

    Raises:
        PolicyError: the gate refuses it; names every line that failed.
        ConfigError: there is no such version, the metrics are another's, or it stands there already.
    """
    with writing(db):
        version = catalogue.find(db, name)
        now = catalogue.standing(db, channel)
        if now is not None and now.version == version.number:
            raise ConfigError(f"{version.run} stands in {channel} already")
        if metrics is not None and metrics.adapter_digest != version.digest:
            raise ConfigError(
                "the metrics are another adapter's",
                found=metrics.adapter_digest[:16],
                expected=version.digest[:16],
                remedy="measure this version",
            )
        lines = _lines(db, version, gate, metrics, channel)
        failed = [str(line) for line in lines if not line.holds]
        if failed and not force_why:
            raise PolicyError(
                f"{version.run} does not come into {channel}: " + "; ".join(failed),
                remedy="bring --metrics FILE where a figure is not known, or --force --why TEXT, which the log keeps",
            )
        if metrics is not None:
            catalogue.note_metrics(db, version.number, metrics.model_dump(by_alias=True))
            step("metrics noted")
        row = _stand(db, channel, version, now.number if now else None, signer, forced=bool(failed))
        append(
            db,
            signer.key,
            "promoted",
            by=signer.by,
            channel=channel,
            run=version.run,
            adapter=version.digest,
            gate=[str(line) for line in lines] or None,
            metrics=sha256(metrics.model_dump_json().encode()).hexdigest() if metrics else None,
            forced={"why": force_why, "failed": failed} if failed else None,
        )
    return Promoted(row, version, tuple(lines))


def roll_back(db: sqlite3.Connection, channel: str, *, why: str, signer: Signer) -> Promoted:
    """Put the version back that a channel held before the one in force was promoted.

    Raises:
        ConfigError: the channel holds nothing, or held nothing before.
    """
    with writing(db):
        now = catalogue.standing(db, channel)
        if now is None or now.before is None:
            raise ConfigError(
                f"{channel} {'holds no version' if now is None else 'held no version before this one'}",
                remedy="promote one",
            )
        before = catalogue.standing_at(db, now.before)
        version = catalogue.version(db, before.version)
        row = _stand(db, channel, version, before.before, signer, forced=False)
        left = catalogue.version(db, now.version)
        append(
            db,
            signer.key,
            "rolled_back",
            by=signer.by,
            channel=channel,
            run=version.run,
            adapter=version.digest,
            left=left.digest,
            why=why or None,
        )
    return Promoted(row, version, ())


def _lines(
    db: sqlite3.Connection, version: Version, gate: GateSection, metrics: Metrics | None, channel: str
) -> list[Line]:
    held = catalogue.standing(db, PRODUCTION)
    production = catalogue.version(db, held.version) if held else None
    return gate_lines(
        gate,
        version.statement,
        metrics or _metrics(version),
        _metrics(production) if production else None,
        is_first=production is None,
        votes=votes_on(db, version.run) if channel == PRODUCTION else None,
    )


def _metrics(version: Version) -> Metrics | None:
    return None if version.metrics is None else Metrics.model_validate(version.metrics)


def _stand(
    db: sqlite3.Connection, channel: str, version: Version, before: int | None, signer: Signer, *, forced: bool
) -> Standing:
    number = catalogue.next_number(db)
    statement = PromotionStatement(
        federation=signer.federation,
        channel=channel,
        number=number,
        run_id=version.run,
        adapter_digest=version.digest,
        forced=forced,
        at=stamp(signer.now),
    )
    row = Standing(number, channel, version.number, before, sign_promotion(signer.key, statement))
    catalogue.put(db, row)
    step("channel written")
    return row
