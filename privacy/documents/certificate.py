"""The privacy certificate of a job as one printed page, and what an audit's file says in it. Nothing is fetched."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.documents.adapter_facts import AdapterFacts
from yoriai.privacy.documents.promises import SOURCE, promises
from yoriai.privacy.documents.rendering import template
from yoriai.privacy.dp.wording import adjacency, terms
from yoriai.privacy.statements.privacy_statement import AuditFacts

PAGE_END: Final = ".privacy.html"
STATEMENT_END: Final = ".privacy"
_LARGEST: Final = 20.0


@dataclass(frozen=True)
class Issuer:
    """Who signs a certificate, when, and by which key (SHA-256 of it, hexadecimal)."""

    federation: str
    issued: str
    key_fingerprint: str


def certificate_page(facts: AdapterFacts, audit: AuditFacts | None, issuer: Issuer | None) -> str:
    """The page's text.

    Args:
        audit: None where the job was not audited, which the page says.
        issuer: None for a simulation, whose page nobody signs, and which says so.
    """
    return template("certificate.html.j2").render(
        facts=facts,
        job=facts.job,
        audit=audit,
        issuer=issuer,
        promises=promises(facts),
        source=SOURCE,
        terms=terms(facts.job.privacy.unit, facts.accountant),
        neighbours=adjacency(facts.job.privacy.unit),
        factor=_factor(facts.epsilon),
    )


def _factor(epsilon: float | None) -> str:
    """e to the epsilon, for readers."""
    if epsilon is None:
        return ""
    most = math.exp(min(epsilon, _LARGEST))
    return f"{most:.1f}" if most < 10 else f"{most:,.0f}" if epsilon < _LARGEST else f"more than {most:,.0f}"


def named_tests(facts: AdapterFacts) -> tuple[str, ...]:
    """The names of all tests that hold what the page promises, each once."""
    return tuple(dict.fromkeys(name for promise in promises(facts) for name in promise.tests))


def audit_of(data: bytes, facts: AdapterFacts) -> AuditFacts:
    """What an audit's file says of the job of an adapter.

    Args:
        data: what `yoriai audit --json` has printed.

    Raises:
        ConfigError: it is no such file, or of a job with other settings.
        PolicyError: the audit refutes the guarantee, or its control shows that it would not have seen a fault.
    """
    try:
        found: Mapping[str, Any] = json.loads(data)
        settings, confidence, base = found["settings"], float(found["confidence"]), str(found["settings"]["base"])
        bounds = _bounds(found)
        refuted, control_holds = bool(found["refuted"]), bool(found["control_holds"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise ConfigError(
            "this is no audit", expected="what `yoriai audit --json` has printed", remedy="run it with the job's file"
        ) from None
    _check_settings(settings, facts)
    # Whatever the file concludes from its own bounds.
    refuted |= not all(math.isfinite(bound) and bound <= (facts.epsilon or 0.0) for bound in bounds)
    if refuted or not control_holds:
        raise PolicyError(
            "the audit does not bear this guarantee out",
            found="it refutes it" if refuted else "its control fails: it would not have seen a fault",
            remedy="find the fault before anything is certified",
        )
    return AuditFacts(max(bounds), confidence, base[:128], hashlib.sha256(data).hexdigest())


def _bounds(found: Mapping[str, Any]) -> list[float]:
    """The lower bounds that the attacks proved."""
    white, black = found["white_box"], found.get("black_box")
    parts = [white, white["job_rounds"], white["full_step"], *([black] if black else [])]
    return [float(part["epsilon_lower"]) for part in parts]


def _check_settings(settings: Mapping[str, Any], facts: AdapterFacts) -> None:
    """An audit of other noise says nothing of this job; its rounds are planted among records of its own."""
    job = facts.job
    wanted = {
        "noise": job.privacy.noise,
        "rule": job.trained_by,
        "epsilon": job.privacy.epsilon,
        "delta": job.privacy.delta,
        "rounds": job.federation.rounds,
        "sampling_rate": job.training.sampling_rate,
        "clip_norm": job.privacy.clip_norm,
    }
    unlike = [name for name, value in wanted.items() if settings.get(name) != value]
    if not str(settings.get("unit", "")).startswith(job.privacy.unit):
        unlike.append("unit")
    if unlike:
        raise ConfigError(
            "the audit is of another job",
            found=f"{', '.join(unlike)} differ",
            expected="the settings of this job",
            remedy="run it as: yoriai audit --job JOB.toml --json",
        )
