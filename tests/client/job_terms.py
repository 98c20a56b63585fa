"""Jobs that wait at a site, every setting that bears on privacy changed in turn, and the rows that tell of them."""

from typing import Any

from tests.client.books import BASE
from yoriai.client.cli.jobs_terms import Budget, Row, terms_rows
from yoriai.client.offer.job_entry import Entry, Terms
from yoriai.config import JobConfig, job_digest, override

BUDGET = Budget("records", 8.0, 1e-5, "record", 8.0)
CLASSIFY = {"task.kind": "classify", "task.labels": ("cabin", "engine", "pump")}


def entry_of(settings: dict[str, Any] | None = None, /, **changes: Any) -> Entry:
    """A waiting job with these settings."""
    job = override(JobConfig(name="pumps"), {**CLASSIFY, **(settings or {})})
    values = {
        "run_id": "run-1",
        "job": job.model_dump(mode="json", by_alias=True),
        "job_digest": job_digest(job, BASE),
        "base_digest": BASE,
        "noise_multiplier": None if job.privacy.noise == "none" else 1.25,
        "roster_serial": 1,
        "weights": {"north": 2, "south": 1},
        "epsilon": None if job.privacy.noise == "none" else 7.5,
        "accountant": "pld",
    }
    return Entry(terms=Terms(**(values | changes)), seen_at=0.0)


def rows_of(settings: dict[str, Any] | None = None, /, **changes: Any) -> list[Row]:
    return terms_rows(entry_of(settings, **changes), BUDGET)


# A change to each setting of the tables that bear on privacy, with what it takes to be of effect.
OWNERS = {"privacy.unit": "owner"}
SHARED = {"privacy.noise": "distributed", "federation.min_sites": 7}
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "training.local_steps": (3, {}),
    "training.sampling_rate": (0.25, {}),
    "training.records_per_weight": (25, {}),
    "training.optimizer": ("adam", {}),
    "training.learning_rate": (0.5, {}),
    "training.schedule": ("cosine", {}),
    "training.proximal_mu": (0.1, {}),
    "training.lowpass": (True, {}),
    "privacy.noise": ("none", {}),
    "privacy.colluding": (2, SHARED),
    "privacy.epsilon": (4.0, {}),
    "privacy.delta": (1e-6, {}),
    "privacy.clip_norm": (0.5, {}),
    "privacy.unit": ("owner", {}),
    "privacy.records_per_owner": (10, OWNERS),
    "privacy.spare_rounds": (2, {}),
    "task.head": ("trained", {}),
    "lora.rank": (8, {}),
    "lora.alpha": (8.0, {}),
    "lora.target_modules": (("q_proj",), {}),
    "lora.layers": ("last:2", {}),
    "lora.factors": ("public", {"task.kind": "lm"}),
    "task.kind": ("instruct", {}),
    "task.template": ("{prompt}?", {}),
    "task.labels": (("cabin", "pump"), {}),
    "task.max_tokens": (64, {}),
    "task.too_long": ("refuse", {}),
    "federation.rule": ("fedavg", {}),
    "federation.rounds": (51, {}),
    "federation.min_sites": (3, {}),
    "federation.server_optimizer": ("momentum", {}),
    "federation.server_learning_rate": (0.02, {}),
    "secure_aggregation.enabled": (False, {}),
    "base.model": ("other", {}),
}

# Each number of `client.offer.usual`, beyond what is usual.
SETTINGS: dict[str, Any] = {
    "privacy.epsilon": 11.0,
    "privacy.delta": 1e-3,
    "privacy.clip_norm": 1e-4,
    "privacy.spare_rounds": 11,
    "training.sampling_rate": 1e-5,
    "training.local_steps": 101,
    "training.learning_rate": 101.0,
    "federation.server_learning_rate": 101.0,
    "federation.rounds": 1001,
    "lora.rank": 257,
    "lora.alpha": 1025.0,
    "task.max_tokens": 4097,
}
