"""The settings and the plan of an audit on random weights, small enough for a test."""

from yoriai.privacy.dp.randomness import SeededSource
from yoriai.simulations.audit.canary_audit import TINY_SETTINGS, AuditPlan

CANARIES = 1000
SETTINGS = TINY_SETTINGS | {
    "privacy.epsilon": 4.0,
    "training.sampling_rate": 0.5,
    "federation.rounds": 8,
    "evaluation.every": 0,
    "speed.threads": 1,
}


def asked(seed: bytes = b"audit", records: int = 0) -> AuditPlan:
    """A plan from one seed; without records there is no black-box part."""
    return AuditPlan(canaries=CANARIES, directions=300, records=records, carriers=4, source=SeededSource(seed))
