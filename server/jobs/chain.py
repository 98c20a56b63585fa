"""The chain that leads to a version: what each job along it scored and cost, and what they cost together.

Each job's cost is what it was calibrated to, spare rounds included, so it is an upper bound for a record that was in
all of them; a site's ledger has what it was really charged. Jobs along a chain are chosen by earlier results, so they
are added up by Rényi divergences, which bear that (`privacy/ledger/rule.py`), at the largest delta among them.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from yoriai.errors import YoriaiError
from yoriai.privacy.dp.events import Event, merged
from yoriai.privacy.dp.renyi import best_epsilon
from yoriai.privacy.identity.roster import read_roster
from yoriai.privacy.job_terms.noise import all_rounds, resolve_noise, round_event
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.jobs.recording import Records
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Version
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import largest_update, rule_of


@dataclass(frozen=True)
class Link:
    """One version of a chain.

    Attributes:
        run, ended, rounds: of its job.
        accuracy: as it was given at its promotion; None where none was.
        epsilon, delta: of its job alone; None without noise.
        together: epsilon of all jobs up to this one, at the largest delta of theirs; None where one had no noise, or
            its job cannot be read.
    """

    run: str
    ended: str
    rounds: int
    accuracy: float | None
    epsilon: float | None
    delta: float | None
    together: float | None


def chain_of(records: Records, version: Version) -> list[dict[str, Any]]:
    """The versions that a version goes back to, the first one first, and the version itself."""
    versions = [*reversed(list(catalogue.lineage(records.db, version))), version]
    charges: list[tuple[Event, int]] | None = []
    links: list[Link] = []
    for one in versions:
        charge = _charge(records, one)
        charges = None if charge is None or charges is None else [*charges, charge]
        deltas = [v.statement.privacy.delta for v in versions[: len(links) + 1]]
        links.append(_link(one, charges, max((delta for delta in deltas if delta), default=None)))
    return [asdict(link) for link in links]


def _link(version: Version, charges: list[tuple[Event, int]] | None, delta: float | None) -> Link:
    statement = version.statement
    return Link(
        run=version.run,
        ended=statement.ended,
        rounds=statement.rounds,
        accuracy=(version.metrics or {}).get("accuracy"),
        epsilon=statement.privacy.epsilon,
        delta=statement.privacy.delta,
        together=None if charges is None or delta is None else best_epsilon(merged(charges), delta),
    )


def _charge(records: Records, version: Version) -> tuple[Event, int] | None:
    """What a version's job may cost one unit: a round's event, and how often; None where that is not known."""
    stored, now = StoredJob(records.folder.jobs / version.run), datetime.now(UTC)
    try:
        prepared = stored.prepared()
        roster = read_roster(stored.roster_file.read_bytes(), records.folder.trusted.trust(now), may_be_expired=True)
        n_params = largest_update(rule_of(prepared.job), AdapterState.from_bytes(prepared.adapter))
        noise = resolve_noise(prepared.job, prepared.noise_multiplier, n_params=n_params, sites=len(roster.sites))
    except (YoriaiError, OSError):
        return None
    event = round_event(prepared.job, noise)
    return None if event is None else (event, all_rounds(prepared.job))
