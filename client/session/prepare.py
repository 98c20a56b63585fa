"""Makes a job complete where the base model is: its digest, and the first adapter with its fixed factors."""

from pathlib import Path
from typing import Final

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.model.public_texts import own_texts, text_digest
from yoriai.client.session.continuing import Start, check_same_base, going_on
from yoriai.client.session.model_session import ModelSession
from yoriai.client.session.task_defaults import settled
from yoriai.config import JobConfig, KpiSection, override
from yoriai.prepared_job import PreparedJob, check_complete
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit

# An offer has room for them beside labels and template.
_MOST_DIGESTS: Final = 4000


def prepare(job: JobConfig, start: Start | None = None) -> PreparedJob:
    """The job as a server can run it.

    Args:
        start: the version that it goes on from; None begins anew.

    Raises:
        ConfigError: its settings do not go together, or leave open what only records could tell: each site would
            find something else in its own. Or it cannot go on from the version.
        AdapterError: the version's adapter does not fit the base.
        BaseModelError: the base model cannot be loaded, or is not the one that the job names.
    """
    check_complete(job)
    check_fit(job)
    # What an error costs is no site's business: prices serve the reports of simulations, and stay.
    job = settled(job).model_copy(update={"kpi": KpiSection()})
    job = with_digests(job) if start is None else going_on(job, start)
    check_fit(job)
    with quiet_libraries():
        base = load_base(job.base.model, device=choose_device(job.speed.device), expected_digest=job.base.digest)
        session = ModelSession(base, job.speed)
        adapter = session.initial_adapter(job) if start is None else _first_of(start, session, job)
    return PreparedJob(job, base.digest, adapter.to_bytes())


def _first_of(start: Start, session: ModelSession, job: JobConfig) -> AdapterState:
    check_same_base(session.base.digest, start)
    session.check_adapter(job, start.adapter)
    return start.adapter


def with_digests(job: JobConfig) -> JobConfig:
    """The job with what sites need to find their own records among its public texts: of the first few thousand.

    Raises:
        ConfigError: the texts cannot be read, or there are none.
    """
    if not job.is_conditioned or job.public.texts is None:
        return job
    digests = dict.fromkeys(text_digest(text) for text in own_texts(Path(job.public.texts)))
    return override(job, {"public.digests": list(digests)[:_MOST_DIGESTS]})
