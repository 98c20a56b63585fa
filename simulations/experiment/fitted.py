"""A base model that the job's adapter and the records were seen to fit."""

from dataclasses import dataclass

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.model.public_texts import found_public
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.session.prepare import with_digests
from yoriai.errors import RecordError
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.observers import Observer
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import largest_update, rule_of


@dataclass(frozen=True)
class Fitted:
    """A base that the job's adapter and the records were seen to fit.

    Attributes:
        initial: the adapter before round 0.
        cut: records, for training or testing, that are cut to task.max_tokens, by site.
        n_params: entries that a site sends in a round, at most.
    """

    session: ModelSession
    initial: AdapterState
    cut: dict[str, int]
    n_params: int


def fit(experiment: Experiment, observer: Observer, session: ModelSession | None = None) -> Fitted:
    """Load the base, attach the adapter and turn every record into tokens.

    Args:
        session: holds the job's base already, from another run.

    Raises:
        YoriaiError: the base does not load or is another one, the adapter does not fit it, or a record does not fit
            the task.
    """
    job = experiment.job
    if session is None:
        observer.advance("loading the base model", 0, 0)
        base = load_base(
            job.base.model,
            device=choose_device(job.speed.device),
            expected_digest=job.base.digest,
            progress=lambda what, done, total: observer.advance(f"base model: {what}", done, total),
        )
        session = ModelSession(base, job.speed)
    observer.advance("fitting the adapter", 0, 0)
    _tell_of_public(experiment, observer)
    initial = session.initial_adapter(job, lambda done, total: observer.advance("public texts", done, total))
    session.head(job)  # Labels that the base cannot tell apart are found before anything is spent.
    cut = {}
    for site in experiment.sites:
        try:
            encoded = session.encode((*site.train, *site.test), job.task)
            cut[site.name] = encoded.cut
            if job.task.kind != "classify":
                _check_targets(site, [bool(example.loss_mask.any()) for example in encoded.examples], observer)
        except RecordError as error:
            raise RecordError(
                f"site {site.shown}: {error.what}", found=error.found, expected=error.expected, remedy=error.remedy
            ) from None
    return Fitted(session, initial, cut, largest_update(rule_of(job), initial))


def _tell_of_public(experiment: Experiment, observer: Observer) -> None:
    """Say which sites' records are among the texts that the job calls public: no noise covers what these give away."""
    public = with_digests(experiment.job).public
    for site in experiment.sites:
        if told := found_public((record.prompt or "" for record in (*site.train, *site.test)), public):
            observer.say(f"site {site.shown}: {told}")


def _check_targets(site: SiteRecords, has_target: list[bool], observer: Observer) -> None:
    """Say before anything is spent what a site cannot learn or be measured by: each record's flag, training first."""
    if not any(has_target[: len(site.train)]):
        raise RecordError(
            "no training record holds anything to learn",
            expected="texts of two tokens or more",
            remedy="leave the site out, or give it longer texts",
        )
    if site.test and not any(has_target[len(site.train) :]):
        observer.say(f"site {site.shown}: no test record holds anything to measure, so it gets no score")
