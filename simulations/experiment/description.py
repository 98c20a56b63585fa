"""What a run works on, in lines for its beginning; told without a model."""

from yoriai.client.base import assets
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.report.report import Base


def describe(experiment: Experiment, base_digest: str, cut: int) -> list[str]:
    """Base and records with licence and source, and the task.

    Args:
        cut: records that are longer than the task allows.
    """
    data, task = experiment.data, experiment.job.task
    base = base_of(experiment.job.base.model, base_digest)
    lines = [
        f"base     {base.name}; licence: {base.licence}; source: {base.source}",
        f"records  {data.title}; licence: {data.licence}; source: {data.source}",
        f"task     {task.kind}. {experiment.reason}",
    ]
    if cut:
        records = sum(len(site.train) + len(site.test) for site in experiment.sites)
        lines.append(f"cut      {cut} of {records} records are longer than {task.max_tokens} tokens and lose the rest")
    return lines


def base_of(name: str, digest: str) -> Base:
    """The base of that name with its licence and source."""
    if name in assets.ASSETS:
        info = assets.asset_info(name)
        return Base(name=name, digest=digest, licence=info.licence, source=info.source)
    return Base(name=name, digest=digest, licence="see its source", source=name)
