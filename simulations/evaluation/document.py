"""An evaluation as JSON, with the exact p-values beside the counts that they are of."""

from dataclasses import asdict
from typing import Any, Final

from yoriai.client.evaluation.side_by_side import METHOD, p_value
from yoriai.simulations.evaluation.evaluation import Evaluation
from yoriai.simulations.report.report import Compared, Paired

EVALUATION_SCHEMA: Final = 1


def document(found: Evaluation) -> dict[str, Any]:
    """The evaluation as values that JSON has; `docs/evaluation.md` explains the keys."""
    report = found.report
    return {
        "schema": EVALUATION_SCHEMA,
        "name": report.name,
        "task": report.task.kind,
        "status": report.status,
        "trainings": {
            name: score.model_dump(mode="json")
            | {"calibration": asdict(found.calibration[name]) if name in found.calibration else None}
            for name, score in report.overall.items()
        },
        "federated_against": {name: _compared(one) for name, one in report.against.items()},
        "labels": [asdict(one) for one in found.labels],
        "languages": [one.as_json() for one in found.languages],
        "sites": [
            {
                "name": site.name,
                "test_records": site.test_records,
                "base": site.base.model_dump(mode="json"),
                "federated": None if site.federated is None else site.federated.model_dump(mode="json"),
                "paired": _paired(site.paired),
                "changes": {key: change.model_dump() for key, change in site.changes.items()},
            }
            for site in report.sites
        ],
        "latency": None if found.latency is None else asdict(found.latency),
        "forgetting": None if found.forgetting is None else asdict(found.forgetting),
        "peak_memory_mb": report.peak_memory_mb,
        "adapter_bytes": found.adapter_bytes,
        "method": METHOD,
    }


def _compared(one: Compared) -> dict[str, Any]:
    changes = {key: change.model_dump() for key, change in one.changes.items()}
    return {"paired": _paired(one.paired), "changes": changes}


def _paired(paired: Paired | None) -> dict[str, Any] | None:
    return None if paired is None else {**paired.model_dump(), "p": p_value(paired.gained, paired.lost)}
