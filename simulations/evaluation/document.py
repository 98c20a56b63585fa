"""An evaluation as JSON, with the exact p-values beside the counts that they are of."""

from dataclasses import asdict
from typing import Any, Final

from scipy import stats

from yoriai.client.model.paired import FEWEST_RECORDS, RESAMPLES
from yoriai.simulations.evaluation.calibration import BINS
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
        "peak_memory_mb": report.peak_memory_mb,
        "adapter_bytes": found.adapter_bytes,
        "method": {
            "interval": "95 %, paired bootstrap over records within sites, percentiles",
            "resamples": RESAMPLES,
            "fewest_records": FEWEST_RECORDS,
            "test": "exact two-sided sign test on the records whose answer changed (McNemar)",
            "calibration_bins": BINS,
        },
    }


def p_value(paired: Paired) -> float:
    """Two-sided exact p of the sign test; 1 where no answer changed."""
    changed = paired.gained + paired.lost
    return float(stats.binomtest(paired.gained, changed).pvalue) if changed else 1.0


def _compared(one: Compared) -> dict[str, Any]:
    changes = {key: change.model_dump() for key, change in one.changes.items()}
    return {"paired": _paired(one.paired), "changes": changes}


def _paired(paired: Paired | None) -> dict[str, Any] | None:
    return None if paired is None else {**paired.model_dump(), "p": p_value(paired)}
