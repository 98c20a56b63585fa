"""Where an adapter in a site's folder is from, as the statements beside it say: verified when it was taken in."""

from pathlib import Path
from typing import Any

from yoriai.client.versions.adapter_place import STATEMENT
from yoriai.errors import IdentityError
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.privacy.statements.delivery import unverified_delivery
from yoriai.privacy.statements.version_statement import VersionStatement, unverified_version


def source_of(folder: Path) -> dict[str, Any]:
    """What the statement says: run, job, rounds, sites, epsilon, base, and the versions that it goes back to.

    No signature is looked at again; `yoriai check-adapter --site` does that. An adapter that a job delivered has a
    statement about the end of its run alone.
    """
    found: dict[str, Any] = {"adapter": folder.name}
    try:
        signed = (folder / STATEMENT).read_bytes()
    except OSError:
        return found | {"statement": "none"}
    try:
        return found | _of_version(unverified_version(signed)) | _lineage(folder)
    except IdentityError:
        return found | _of_delivery(signed)


def _of_version(version: VersionStatement) -> dict[str, Any]:
    privacy = version.privacy
    epsilon = "no noise" if privacy.epsilon is None else f"{epsilon_text(privacy.epsilon)} for one {privacy.unit}"
    return {
        "federation": version.federation,
        "run": version.run_id,
        "job": version.job,
        "trained by": f"{version.trained_by}, {version.rounds} rounds, {version.sites} sites",
        "epsilon": epsilon,
        "digest": version.adapter_digest,
        "base": version.base_digest,
        "ended": version.ended,
    }


def _lineage(folder: Path) -> dict[str, Any]:
    """The runs that a version goes back to, its parent first."""
    signed = sorted(
        folder.glob("lineage.*"), key=lambda path: int(path.suffix[1:]) if path.suffix[1:].isdecimal() else 0
    )
    runs = [unverified_version(path.read_bytes()).run_id for path in signed]
    return {"goes back to": ", ".join(runs)} if runs else {}


def _of_delivery(signed: bytes) -> dict[str, Any]:
    try:
        statement = unverified_delivery(signed)
    except IdentityError:
        return {"statement": "damaged"}
    return {
        "federation": statement.federation,
        "run": statement.run_id,
        "rounds": statement.rounds,
        "digest": statement.adapter_digest,
        "base": statement.base_digest,
    }
