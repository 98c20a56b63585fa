"""Which settings of a job go together: each combination that could not work, or would silently do nothing, is refused.

Every check looks at one reason, and names the setting at fault, that reason, and what would do instead. What a rule
goes with is read off the rule's own attributes, so that a new one, or one of another package, needs no change here.
"""

from collections.abc import Callable, Iterator, Sequence

from yoriai.config import JobConfig
from yoriai.config.faults import all_faults
from yoriai.errors import ConfigError
from yoriai.strategies import robust
from yoriai.strategies.factors import FEATURE_AXIS
from yoriai.strategies.rule import CYCLE, EachRule, SumRule, built_in_rules, rule_of

AnyRule = SumRule | EachRule

_PLAIN = "set secure_aggregation.enabled = false"
_SECOND_MOMENTS = frozenset({"adam", "yogi"})


def check_fit(job: JobConfig) -> None:
    """Whether the job's settings go together, over and above each one's own bounds.

    Raises:
        ConfigError: they do not; it lists every fault. An unknown rule is one of them.
    """
    faults: list[ConfigError] = []
    try:
        rule = rule_of(job)
    except ConfigError as unknown:
        faults.append(unknown)
    else:
        for check in (_hidden_updates, _optimizer, _whole_steps, _one_aggregation, _features):
            faults += check(job, rule)
    for check_settings in (
        _head_of_its_task,
        _head_alone,
        _factors_of_texts,
        _aggregation_in_the_open,
        _enough_updates,
        _proximal,
        _two_to_hide,
        _owners_only,
        _one_noised_sum,
        _honest_shares,
    ):
        faults += check_settings(job)
    if faults:
        raise all_faults("settings that do not go together", faults)


def _head_of_its_task(job: JobConfig) -> Iterator[ConfigError]:
    """Only a classifier has a head that could train."""
    if job.task.head == "trained" and job.task.kind not in ("auto", "classify"):
        yield ConfigError(
            f"task.head = trained with task.kind = {job.task.kind}: a head that trains chooses one of the job's labels",
            expected="task.kind = classify",
            remedy="leave task.head out, or teach labels",
        )


def _head_alone(job: JobConfig) -> Iterator[ConfigError]:
    """A head has one way to be summed, and no low-rank factors; a rule of adapters would silently do nothing."""
    if not job.trains_head:
        return
    default = type(job.federation).model_fields["rule"].default
    if job.federation.rule != default:
        yield ConfigError(
            f"federation.rule = {job.federation.rule} with task.head = trained: a head that trains is summed as it is",
            remedy='leave federation.rule out, or set task.head = "labels"',
        )


def _factors_of_texts(job: JobConfig) -> Iterator[ConfigError]:
    """Public texts have no labels, and only core has fixed factors of the base."""
    if job.lora.factors != "public":
        return
    if job.task.kind == "classify":
        yield ConfigError(
            "lora.factors = public with task.kind = classify: public texts have no labels to learn from",
            expected="task.kind = lm or instruct",
            remedy='set lora.factors = "svd", or task.head = "trained", which public texts condition',
        )
    if job.federation.rule != "core":
        yield ConfigError(
            f"lora.factors = public with the rule {job.federation.rule}: it has no fixed factors of the base",
            expected="federation.rule = core",
            remedy='set that, or lora.factors = "svd"',
        )


def _hidden_updates(job: JobConfig, rule: AnyRule) -> Iterator[ConfigError]:
    """A rule that needs every update by itself cannot do with the sum that secure aggregation opens."""
    if job.secure_aggregation.enabled and not rule.sum_suffices:
        yield ConfigError(
            f"the rule {rule.name} needs single updates, and secure aggregation opens only their sum",
            remedy=f"choose one of the rules {_sum_rules()}, or {_PLAIN}",
        )


def _optimizer(job: JobConfig, rule: AnyRule) -> Iterator[ConfigError]:
    """A rule whose adapter no step of that optimiser leads to."""
    kind = job.federation.server_optimizer
    if kind in rule.server_optimizers:
        return
    if _steps_are_whole(rule):
        reason = "the rule takes updates whole, and with a step in their place it would not be exact"
    elif _SECOND_MOMENTS.isdisjoint(rule.server_optimizers):
        reason = "the rule turns the basis after a round, and a mean square by entry has no meaning in the next one"
    else:
        reason = "the rule does not name it among those that it goes with"
    others = _rules_with(lambda other: kind in other.server_optimizers)
    yield ConfigError(
        f"federation.server_optimizer = {kind} with the rule {rule.name}: {reason}",
        expected=_one_of(rule.server_optimizers),
        remedy=f"choose that, or one of the rules that go with {kind}: {others}",
    )


def _whole_steps(job: JobConfig, rule: AnyRule) -> Iterator[ConfigError]:
    """A rule that is exact only when updates are added whole: no server learning rate but one, and no fall of it."""
    if not _steps_are_whole(rule):
        return
    federation = job.federation
    others = _rules_with(lambda other: not _steps_are_whole(other))
    without_noise = federation.server_learning_rate_without_noise
    for setting, found, expected in (
        ("server_learning_rate", federation.server_learning_rate, 1.0),
        ("server_learning_rate_without_noise", 1.0 if without_noise is None else without_noise, 1.0),
        ("schedule", federation.schedule, "constant"),
    ):
        if found != expected:
            yield ConfigError(
                f"federation.{setting} with the rule {rule.name}: updates are exact only when they are added whole",
                found=str(found),
                expected=str(expected),
                remedy="set that, and the steps by training.learning_rate and training.schedule, or choose one of "
                f"the rules that bear steps of the server: {others}",
            )


def _one_aggregation(job: JobConfig, rule: AnyRule) -> Iterator[ConfigError]:
    """A rule that combines single updates itself leaves nothing to aggregate before it."""
    kind = job.federation.aggregation
    if kind != "mean" and not rule.sum_suffices:
        yield ConfigError(
            f"federation.aggregation = {kind} with the rule {rule.name}: the rule combines single updates itself",
            expected="mean",
            remedy=f"set that, or choose one of the rules that take one update: {_sum_rules()}",
        )


def _features(job: JobConfig, rule: AnyRule) -> Iterator[ConfigError]:
    """The low-pass filter needs an axis of features in every factor that trains."""
    if job.training.lowpass and (flat := _without_features(rule)):
        yield ConfigError(
            f"training.lowpass smooths along features, and the rule {rule.name} trains a factor that has none",
            found=f"factor {', '.join(flat)}",
            expected=f"factors out of {', '.join(sorted(FEATURE_AXIS))}",
            remedy="set training.lowpass = false, or choose one of the rules "
            f"{_rules_with(lambda other: not _without_features(other))}",
        )


def _aggregation_in_the_open(job: JobConfig) -> Iterator[ConfigError]:
    """All aggregations but the mean look at single updates."""
    kind = job.federation.aggregation
    if kind != "mean" and job.secure_aggregation.enabled:
        yield ConfigError(
            f"federation.aggregation = {kind} needs single updates, and secure aggregation opens only their sum",
            expected="mean",
            remedy=f"set that, or {_PLAIN}",
        )


def _enough_updates(job: JobConfig) -> Iterator[ConfigError]:
    """A round that counts must have updates enough for the aggregation."""
    federation = job.federation
    kind, byzantine = federation.aggregation, federation.byzantine_sites
    least = robust.least_updates(kind, byzantine)
    if federation.min_sites >= least:
        return
    bearable = (federation.min_sites - 3) // 2 if kind == "krum" else 0  # From krum's n >= 2f + 3.
    fewer = f", lower federation.byzantine_sites to {bearable}" if bearable >= 1 else ""
    enough = [other for other in robust.KINDS if robust.least_updates(other, byzantine) <= federation.min_sites]
    borne = f"federation.byzantine_sites = {byzantine} false updates" if kind == "krum" else "a false update"
    yield ConfigError(
        f"federation.aggregation = {kind} bears {borne} among {least} or more only",
        found=f"federation.min_sites = {federation.min_sites}",
        expected=f"at least {least}",
        remedy=f"raise it{fewer}, or set federation.aggregation to {_one_of(enough)}",
    )


def _proximal(job: JobConfig) -> Iterator[ConfigError]:
    """The first local step starts at the round's adapter, where the pull towards it is zero."""
    if job.training.proximal_mu > 0 and job.training.local_steps == 1:
        yield ConfigError(
            "training.proximal_mu pulls local steps after the first, and there is one only",
            found=f"training.proximal_mu = {job.training.proximal_mu:g}, training.local_steps = 1",
            expected="0, or at least 2 steps",
            remedy="set training.proximal_mu = 0, or raise training.local_steps",
        )


def _two_to_hide(job: JobConfig) -> Iterator[ConfigError]:
    """The sum of one update is that update."""
    if job.secure_aggregation.enabled and job.federation.min_sites < 2:
        yield ConfigError(
            "secure aggregation needs at least two sites in a round, for the sum of one update hides nothing",
            found=f"federation.min_sites = {job.federation.min_sites}",
            expected="at least 2",
            remedy=f"raise it, or {_PLAIN}",
        )


def _owners_only(job: JobConfig) -> Iterator[ConfigError]:
    """A limit on an owner's records where owners play no part."""
    if job.privacy.records_per_owner is not None and job.privacy.unit != "owner":
        yield ConfigError(
            "privacy.records_per_owner limits the records of an owner, and the unit of privacy is a record",
            found=f"privacy.records_per_owner = {job.privacy.records_per_owner}, privacy.unit = {job.privacy.unit}",
            remedy='leave privacy.records_per_owner out, or set privacy.unit = "owner"',
        )


def _one_noised_sum(job: JobConfig) -> Iterator[ConfigError]:
    """With distributed noise a site's clipped gradients carry a share of the noise only, until the secure sum is open:
    nothing else may be made of them before, and nothing but that sum may be seen."""
    if job.privacy.noise != "distributed":
        return
    training, federation = job.training, job.federation
    for setting, found, expected in (
        ("secure_aggregation.enabled", job.secure_aggregation.enabled, True),
        ("training.local_steps", training.local_steps, 1),
        ("training.optimizer", training.optimizer, "sgd"),
        ("training.lowpass", training.lowpass, False),
        ("federation.update_norm_bound", federation.update_norm_bound, None),
    ):
        if found != expected:
            left_out = expected is None
            yield ConfigError(
                f'{setting} with privacy.noise = "distributed": a round is one sum of clipped gradients, and its noise '
                "is whole only when the sum is opened",
                found=str(found),
                expected="none" if left_out else str(expected),
                remedy=f'{"leave it out" if left_out else "set that"}, or set privacy.noise = "local"',
            )


def _honest_shares(job: JobConfig) -> Iterator[ConfigError]:
    """Somebody's share must count; and where one share is not the whole noise, no update may be seen by itself."""
    least, colluding = job.federation.min_sites, job.privacy.colluding
    if job.privacy.noise != "distributed":
        return
    # A coordinator may open a window for the fewest sites, with all colluders among them.
    if least > colluding + 1 and 3 * colluding > least:
        yield ConfigError(
            "distributed noise rests on secure aggregation, which bears a third of the sites at most as colluders: "
            "more of them could take the masks off single updates",
            found=f"federation.min_sites = {least}, privacy.colluding = {colluding}",
            expected=f"privacy.colluding of at most {least // 3}",
            remedy=f"raise federation.min_sites to {3 * colluding} or more, or lower it to {colluding + 1}, where each "
            "share is the whole noise",
        )
    if least <= colluding:
        yield ConfigError(
            "distributed noise has no share that counts: as many sites as make a round may collude",
            found=f"federation.min_sites = {least}, privacy.colluding = {colluding}",
            expected="federation.min_sites above privacy.colluding",
            remedy="raise the first or lower the second",
        )


def _steps_are_whole(rule: AnyRule) -> bool:
    return tuple(rule.server_optimizers) == ("none",)


def _without_features(rule: AnyRule) -> tuple[str, ...]:
    """The factors without a feature axis that the rule trains in some round, sorted."""
    trained = {factor for round_index in range(CYCLE) for factor in rule.trainable(round_index)}
    return tuple(sorted(trained - FEATURE_AXIS.keys()))


def _sum_rules() -> str:
    return _rules_with(lambda rule: rule.sum_suffices)


def _rules_with(fits: Callable[[AnyRule], bool]) -> str:
    """Out of the built-in ones, for a fault of one rule is no reason to import the others' packages."""
    return ", ".join(rule.name for rule in built_in_rules() if fits(rule))


def _one_of(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
