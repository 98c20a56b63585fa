"""The noise of a prepared job among the sites of a roster. Light: it loads no model library."""

from yoriai.prepared_job import PreparedJob
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import largest_update, rule_of


def calibrated_for(prepared: PreparedJob, sites: int) -> float | None:
    """The noise multiplier with which the whole job keeps its epsilon among so many sites; None without privacy.

    Raises:
        ConfigError: no noise reaches it.
    """
    job = prepared.job
    n_params = largest_update(rule_of(job), AdapterState.from_bytes(prepared.adapter))
    return calibrated(job, n_params=n_params, sites=sites)
