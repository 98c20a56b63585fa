"""Which trainings the benchmark of the rules is made of: the search's grids, and the job behind each training.

Every rule gets the same number of trainings to be tuned with. The first ones choose server optimiser and learning rate
at clip norm 1, the last ones the clip norm (with privacy) or a learning rate between the grid's (without). A rule that
bears fewer optimisers gets more learning rates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from yoriai.client.records.records import SiteRecords
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.simulations.scenarios import get_scenario
from yoriai.strategies.rule import get_rule

FIRST_TRIALS: Final = 6
LAST_TRIALS: Final = 2
CLIP_NORMS: Final = (0.3, 3.0)
BETWEEN: Final = (0.56, 1.8)
LORA_RANK, CORE_RANK = 8, 32
FEDERATED_LOCAL: Final = "federated_local_noise"

# By whether the rule trains a core, whose U holds singular values: its entries want other steps than those of LoRA's
# factors. Trials with a few settings showed the orders of magnitude; the ends of each grid are worse than its middle.
_ADAM: Final[Mapping[bool, tuple[float, ...]]] = {False: (0.01, 0.03, 0.1), True: (0.02, 0.045, 0.1)}
_MOMENTUM: Final[Mapping[bool, tuple[float, ...]]] = {False: (3.0, 10.0, 30.0), True: (0.1, 0.3, 1.0)}
_ONLY: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Scale:
    """How large each training is, and under which noise; the same for all rules, so that they are compared and not the
    budget.

    Attributes:
        noise: `local` or `distributed`, of the trainings with privacy.
        sites: deals all training records out to so many sites (Dirichlet 0.5 over labels); None keeps the data's own.
    """

    layers: str = "last:1"
    rounds: int = 24
    sampling_rate: float = 0.25
    noise: str = "local"
    sites: int | None = None


@dataclass(frozen=True)
class Setting:
    """What the search chooses.

    Attributes:
        optimizer: the server's; `none` where the sites' own steps are the only ones.
        learning_rate: the server's, or the sites' with `none`.
    """

    optimizer: str
    learning_rate: float
    clip_norm: float = 1.0


def setting_of(text: str) -> Setting:
    """A setting as it stands on the command line: OPTIMIZER:RATE:CLIP.

    Raises:
        ConfigError: it is none.
    """
    try:
        optimizer, rate, clip = text.split(":")
        return Setting(optimizer, float(rate), float(clip))
    except ValueError:
        raise ConfigError("--setting", found=text, expected="OPTIMIZER:RATE:CLIP, such as adam:0.045:1") from None


@dataclass(frozen=True)
class Training:
    """One training to be measured.

    Attributes:
        kind: `federated`, or one of the comparisons of `simulations/run/compare.py`; `central_rdp` is `central` with
            noise by the accountant of distributed noise. epsilon: None without privacy. seed: of the split. validation:
            whether it is measured on validation records, for the search, or on test records.
    """

    data: str
    kind: str
    rule: str
    epsilon: float | None
    setting: Setting
    seed: int
    validation: bool
    scale: Scale

    def key(self) -> str:
        """Names the training in the store."""
        return json.dumps(asdict(self), sort_keys=True)


def first_settings(rule: str) -> tuple[Setting, ...]:
    """The grid over optimiser and learning rate."""
    bears = get_rule(rule).server_optimizers
    if "adam" in bears:
        is_core = "R" in get_rule(rule).factors
        rates = (("adam", _ADAM[is_core]), ("momentum", _MOMENTUM[is_core]))
        return tuple(Setting(kind, rate) for kind, some in rates for rate in some)
    kind = "momentum" if "momentum" in bears else "none"
    return tuple(Setting(kind, rate) for rate in _ONLY)


def last_settings(best: Setting, *, private: bool) -> tuple[Setting, ...]:
    """Two more around the best of the first.

    Where steps are proportional to the clipped gradients, the learning rate follows the clip norm, so that a change of
    the one is not a change of both.
    """
    if not private:
        return tuple(Setting(best.optimizer, best.learning_rate * share) for share in BETWEEN)
    follows = best.optimizer != "adam"
    return tuple(Setting(best.optimizer, best.learning_rate / (clip if follows else 1.0), clip) for clip in CLIP_NORMS)


def job_of(training: Training, sites: Sequence[SiteRecords]) -> JobConfig:
    """The job of a training, from the scenario's own.

    With local noise updates travel in the clear, because the error of the product is measured on them; secure
    aggregation opens the same sum but for its rounding to 16 bits. Distributed noise needs it, and all sites.
    """
    rule, setting, scale = get_rule(training.rule), training.setting, training.scale
    rank = CORE_RANK if "R" in rule.factors else LORA_RANK
    settings: dict[str, object] = {
        "federation.rule": training.rule,
        "federation.rounds": scale.rounds,
        "federation.server_optimizer": setting.optimizer,
        "federation.server_learning_rate_without_noise": None,
        "lora.rank": rank,
        "lora.alpha": float(rank),
        "lora.layers": scale.layers,
        "training.sampling_rate": scale.sampling_rate,
        "privacy.clip_norm": setting.clip_norm,
        "secure_aggregation.enabled": False,
        "evaluation.every": 0,
    }
    if training.epsilon is None:
        settings["privacy.noise"] = "none"
    else:
        settings["privacy.epsilon"] = training.epsilon
        settings |= _noise_settings(training, sites)
    if setting.optimizer == "none":  # The update is taken as it is, so the sites' own rate is tuned, and falls.
        settings |= {"federation.server_learning_rate": 1.0, "federation.schedule": "constant"}
        settings |= {"training.learning_rate": setting.learning_rate, "training.schedule": "linear"}
    else:
        settings["federation.server_learning_rate"] = setting.learning_rate
    return override(get_scenario(training.data).job(), settings)


def _noise_settings(training: Training, sites: Sequence[SiteRecords]) -> dict[str, object]:
    if training.kind == "central_rdp":
        return {"privacy.accountant": "rdp"}
    if training.scale.noise != "distributed" or training.kind != "federated":
        return {}
    return {
        "privacy.noise": "distributed",
        "secure_aggregation.enabled": True,
        "federation.min_sites": len(sites),
        "training.records_per_weight": max(1, round(sum(len(site.train) for site in sites) / len(sites))),
    }


def search(data: str, rule: str, epsilon: float | None, settings: Sequence[Setting], scale: Scale) -> list[Training]:
    """The search's trainings with these settings: one split, measured on validation records."""
    return [Training(data, "federated", rule, epsilon, setting, 0, True, scale) for setting in settings]
