"""The part of a check that needs the base: it is loaded, records are turned into tokens, and one step is timed."""

from yoriai.client.base.quiet import quiet_libraries
from yoriai.simulations.check.findings import Findings
from yoriai.simulations.check.lengths import site_lengths
from yoriai.simulations.check.step_timing import timed_step
from yoriai.simulations.check.workload import Sizes
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.fitted import fit
from yoriai.simulations.experiment.observers import Observer


def find(experiment: Experiment, observer: Observer) -> Findings:
    """Fit base, adapter and records to each other, and take one step.

    Raises:
        YoriaiError: as `fit`.
        TrainingError: without privacy, the loss of a record is not a number.
    """
    job, heard = experiment.job, _Remarks(observer)
    with quiet_libraries():
        fitted = fit(experiment, heard)
        base = fitted.session.base
        vocabulary, hidden = base.model.get_output_embeddings().weight.shape
        limit = min(job.task.max_tokens, base.context_tokens)
        lengths = tuple(site_lengths(site, base.tokenizer, job.task) for site in experiment.sites)
        return Findings(
            base_digest=base.digest,
            sizes=Sizes(int(hidden), int(vocabulary)),
            limit=limit,
            shapes={name: tensor.shape for name, tensor in fitted.initial.tensors.items()},
            cut=tuple(fitted.cut[site.name] for site in experiment.sites),
            lengths=lengths,
            step=timed_step(experiment, fitted, lengths, limit, observer),
            remarks=heard.any,
        )


class _Remarks:
    """Passes all on to an observer.

    Attributes:
        any: whether something was said.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer, self.any = observer, False

    def advance(self, what: str, done: int, total: int) -> None:
        self._observer.advance(what, done, total)

    def say(self, text: str) -> None:
        self.any = True
        self._observer.say(text)
