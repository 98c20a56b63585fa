"""Settings that do not go together: every rule beside every setting that may refuse it, and what the refusals say."""

from typing import NamedTuple, get_args

import pytest

from yoriai.config import FederationSection, JobConfig, override
from yoriai.errors import ConfigError
from yoriai.strategies import robust, server_opt
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import built_in_rules


class Verdict(NamedTuple):
    """What goes with a rule, from the papers and not from the rules' attributes."""

    sum_is_enough: bool
    optimizers: tuple[str, ...]
    lowpass: bool


ALL = ("none", "momentum", "adam", "yogi")
VERDICTS = {
    "core": Verdict(sum_is_enough=True, optimizers=ALL, lowpass=False),
    "fedavg": Verdict(sum_is_enough=True, optimizers=ALL, lowpass=True),
    "fedex": Verdict(sum_is_enough=False, optimizers=("none",), lowpass=True),
    "fedsvd": Verdict(sum_is_enough=True, optimizers=("none", "momentum"), lowpass=True),
    "ffa": Verdict(sum_is_enough=True, optimizers=ALL, lowpass=True),
    "flora": Verdict(sum_is_enough=False, optimizers=("none",), lowpass=True),
    "rolora": Verdict(sum_is_enough=True, optimizers=ALL, lowpass=True),
}
SUM_RULES = "core, fedavg, fedsvd, ffa, rolora"
EACH_RULES = ("fedex", "flora")
ROBUST = ("median", "trimmed_mean", "krum")
# Goes with every rule, so that each test below changes the one thing it is about.
PLAIN = {
    "secure_aggregation.enabled": False,
    "federation.min_sites": 9,
    "federation.server_optimizer": "none",
    "federation.server_learning_rate": 1.0,
    "federation.schedule": "constant",
}


def job_of(rule, **changes):
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return override(JobConfig(name="trial"), {**PLAIN, "federation.rule": rule, **settings})


def faults(job):
    with pytest.raises(ConfigError) as caught:
        check_fit(job)
    return caught.value.faults


def only_fault(job):
    (fault,) = faults(job)
    return str(fault)


def each(verdict):
    """(rule, whether it passes) for each rule."""
    return [(name, verdict(VERDICTS[name])) for name in sorted(VERDICTS)]


def test_the_verdicts_cover_every_built_in_rule():
    assert sorted(VERDICTS) == [rule.name for rule in built_in_rules()]


def test_the_job_file_offers_the_aggregations_and_optimisers_that_there_are():
    fields = FederationSection.model_fields
    assert get_args(fields["aggregation"].annotation) == robust.KINDS
    assert get_args(fields["server_optimizer"].annotation) == server_opt.KINDS


def test_the_default_settings_go_together():
    check_fit(JobConfig(name="trial"))


@pytest.mark.parametrize("rule", sorted(VERDICTS))
def test_every_rule_goes_with_plain_settings(rule):
    check_fit(job_of(rule))


# Each rule beside each setting -------------------------


@pytest.mark.parametrize(("rule", "passes"), each(lambda verdict: verdict.sum_is_enough))
def test_secure_aggregation_goes_with_rules_that_a_sum_is_enough_for(rule, passes):
    job = job_of(rule, secure_aggregation__enabled=True)
    if passes:
        return check_fit(job)
    fault = only_fault(job)
    assert f"the rule {rule} needs single updates" in fault
    assert "opens only their sum" in fault
    assert f"one of the rules {SUM_RULES}, or set secure_aggregation.enabled = false" in fault


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("rule", sorted(VERDICTS))
def test_a_server_optimizer_goes_with_the_rules_whose_steps_it_can_take(rule, kind):
    job = job_of(rule, federation__server_optimizer=kind)
    if kind in VERDICTS[rule].optimizers:
        return check_fit(job)
    fault = only_fault(job)
    assert f"federation.server_optimizer = {kind} with the rule {rule}: " in fault
    assert ("turns the basis" if rule == "fedsvd" else "would not be exact") in fault
    assert ("one of none, momentum" if rule == "fedsvd" else "expected none;") in fault
    others = [name for name in sorted(VERDICTS) if kind in VERDICTS[name].optimizers]
    assert fault.endswith(f"rules that go with {kind}: {', '.join(others)}")


@pytest.mark.parametrize(
    ("setting", "value", "found", "expected"),
    [
        ("federation__server_learning_rate", 0.5, "0.5", "1.0"),
        ("federation__server_learning_rate_without_noise", 0.25, "0.25", "1.0"),
        ("federation__schedule", "linear", "linear", "constant"),
        ("federation__schedule", "cosine", "cosine", "constant"),
    ],
)
@pytest.mark.parametrize("rule", sorted(VERDICTS))
def test_rules_that_add_updates_whole_refuse_a_scaled_step_and_point_to_the_sites_own(
    rule, setting, value, found, expected
):
    job = job_of(rule, **{setting: value})
    if rule not in EACH_RULES:
        return check_fit(job)
    fault = only_fault(job)
    assert f"{setting.replace('__', '.')} with the rule {rule}: " in fault
    assert "exact only when they are added whole" in fault
    assert f"found {found}; expected {expected}" in fault
    assert "training.learning_rate and training.schedule" in fault
    assert fault.endswith(f": {SUM_RULES}")


@pytest.mark.parametrize("rule", EACH_RULES)
def test_a_server_learning_rate_without_noise_of_one_scales_nothing(rule):
    check_fit(job_of(rule, federation__server_learning_rate_without_noise=1.0))


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize(("rule", "passes"), each(lambda verdict: verdict.sum_is_enough))
def test_a_robust_aggregation_goes_with_rules_that_take_one_update(rule, passes, kind):
    job = job_of(rule, federation__aggregation=kind)
    if passes:
        return check_fit(job)
    fault = only_fault(job)
    assert f"federation.aggregation = {kind} with the rule {rule}: " in fault
    assert "combines single updates itself" in fault
    assert f"expected mean; set that, or choose one of the rules that take one update: {SUM_RULES}" in fault


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize("rule", sorted(VERDICTS))
def test_a_robust_aggregation_does_not_go_with_secure_aggregation(rule, kind):
    told = [str(f) for f in faults(job_of(rule, federation__aggregation=kind, secure_aggregation__enabled=True))]
    (fault,) = (text for text in told if text.startswith(f"federation.aggregation = {kind} needs single updates"))
    assert "opens only their sum; expected mean; set that, or set secure_aggregation.enabled = false" in fault
    assert len(told) == (1 if VERDICTS[rule].sum_is_enough else 3)


@pytest.mark.parametrize(("rule", "passes"), each(lambda verdict: verdict.lowpass))
def test_the_low_pass_filter_goes_with_rules_whose_trained_factors_have_features(rule, passes):
    job = job_of(rule, training__lowpass=True)
    if passes:
        return check_fit(job)
    fault = only_fault(job)
    assert f"the rule {rule} trains a factor that has none; found factor R; expected factors out of A, B" in fault
    assert "set training.lowpass = false, or choose one of the rules fedavg, fedex, fedsvd, ffa, flora, rolora" in fault


# Settings beside settings ------------------------------


@pytest.mark.parametrize(
    ("kind", "byzantine_sites", "least"),
    [("median", 9, 3), ("trimmed_mean", 9, 3), ("krum", 1, 5), ("krum", 2, 7), ("krum", 4, 11)],
)
def test_a_round_that_counts_must_have_updates_enough_for_its_aggregation(kind, byzantine_sites, least):
    settings = {"federation__aggregation": kind, "federation__byzantine_sites": byzantine_sites}
    check_fit(job_of("ffa", **settings, federation__min_sites=least))
    fault = only_fault(job_of("ffa", **settings, federation__min_sites=least - 1))
    assert f"federation.aggregation = {kind} bears " in fault
    assert f"among {least} or more only; found federation.min_sites = {least - 1}; expected at least {least}" in fault


def test_krum_with_too_few_sites_names_the_false_updates_it_could_bear_and_what_bears_less():
    fault = only_fault(
        job_of("ffa", federation__aggregation="krum", federation__byzantine_sites=4, federation__min_sites=8)
    )
    assert "federation.byzantine_sites = 4 false updates among 11" in fault
    assert "raise it, lower federation.byzantine_sites to 2, or set" in fault
    assert fault.endswith("federation.aggregation to one of mean, median, trimmed_mean")


def test_krum_with_sites_too_few_for_any_false_update_does_not_offer_fewer_of_them():
    fault = only_fault(job_of("ffa", federation__aggregation="krum", federation__min_sites=2))
    assert fault.endswith("raise it, or set federation.aggregation to mean")


@pytest.mark.parametrize("rule", sorted(VERDICTS))
def test_the_proximal_pull_needs_a_second_local_step(rule):
    check_fit(job_of(rule, training__proximal_mu=0.1, training__local_steps=2))
    fault = only_fault(job_of(rule, training__proximal_mu=0.1, training__local_steps=1))
    assert "training.proximal_mu pulls local steps after the first, and there is one only" in fault
    assert "found training.proximal_mu = 0.1, training.local_steps = 1" in fault
    assert fault.endswith("set training.proximal_mu = 0, or raise training.local_steps")


def test_secure_aggregation_needs_two_sites():
    check_fit(job_of("ffa", secure_aggregation__enabled=True, federation__min_sites=2))
    check_fit(job_of("ffa", federation__min_sites=1))
    fault = only_fault(job_of("ffa", secure_aggregation__enabled=True, federation__min_sites=1))
    assert "secure aggregation needs at least two sites in a round" in fault
    assert "found federation.min_sites = 1; expected at least 2; raise it, or set secure_aggregation.enabled" in fault


# All at once -------------------------------------------


SHARED = {"privacy.noise": "distributed", "federation.min_sites": 3}


@pytest.mark.parametrize("rule", ["core", "fedavg", "ffa", "fedsvd", "rolora"])
def test_rules_that_a_sum_is_enough_for_go_with_distributed_noise(rule):
    optimizer = "momentum" if rule == "fedsvd" else "adam"
    check_fit(
        override(JobConfig(name="j"), SHARED | {"federation.rule": rule, "federation.server_optimizer": optimizer})
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("secure_aggregation.enabled", False),
        ("training.local_steps", 2),
        ("training.optimizer", "adam"),
        ("training.lowpass", True),
        ("federation.update_norm_bound", 1.0),
        ("federation.aggregation", "median"),
        ("federation.rule", "flora"),
        ("federation.rule", "fedex"),
        ("federation.min_sites", 1),
        ("privacy.colluding", 3),
    ],
)
def test_distributed_noise_goes_with_one_sum_a_round_and_nothing_else(setting, value):
    rule = {"federation.rule": "ffa"} if setting == "training.lowpass" else {}
    with pytest.raises(ConfigError) as refused:
        check_fit(override(JobConfig(name="j"), SHARED | rule | {setting: value}))
    assert setting.split(".")[1].split("_")[0] in str(refused.value) or value in str(refused.value)


@pytest.mark.parametrize(("least", "colluding"), [(2, 1), (3, 1), (5, 1), (6, 2), (7, 2), (3, 2), (50, 16), (50, 49)])
def test_as_many_sites_may_collude_as_secure_aggregation_bears_or_all_but_one(least, colluding):
    settings = {"federation.min_sites": least, "privacy.colluding": colluding}
    check_fit(override(JobConfig(name="j"), SHARED | settings))


@pytest.mark.parametrize(("least", "colluding"), [(4, 2), (5, 2), (8, 3), (50, 17), (50, 48)])
def test_more_colluders_than_secure_aggregation_bears_are_refused_where_a_share_is_not_the_whole_noise(
    least, colluding
):
    settings = {"federation.min_sites": least, "privacy.colluding": colluding}
    with pytest.raises(ConfigError, match=f"privacy.colluding of at most {least // 3}"):
        check_fit(override(JobConfig(name="j"), SHARED | settings))


def test_local_noise_does_not_look_at_colluders():
    check_fit(override(JobConfig(name="j"), {"privacy.colluding": 99}))


def test_an_unknown_rule_is_refused_with_the_nearest():
    assert only_fault(job_of("fedavgg")).endswith('did you mean "fedavg"?')


def test_an_unknown_rule_does_not_hide_other_faults():
    told = [fault.what for fault in faults(job_of("fedavgg", training__proximal_mu=0.1))]
    assert told[0] == "federation.rule is not a known rule"
    assert told[1].startswith("training.proximal_mu")
    assert len(told) == 2


def test_a_rule_that_needs_single_updates_under_default_settings_lists_all_that_is_in_its_way():
    job = override(JobConfig(name="trial"), {"federation.rule": "flora"})
    assert [fault.what.split(" with the rule")[0] for fault in faults(job)] == [
        "the rule flora needs single updates, and secure aggregation opens only their sum",
        "federation.server_optimizer = adam",
        "federation.server_learning_rate",
        "federation.schedule",
    ]


def test_several_faults_are_all_in_the_message():
    job = job_of("core", training__lowpass=True, training__proximal_mu=0.1, federation__aggregation="krum")
    with pytest.raises(ConfigError) as caught:
        check_fit(override(job, {"federation.min_sites": 1, "secure_aggregation.enabled": True}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "settings that do not go together: 5 faults"
    assert [line.strip() for line in lines[1:]] == [str(fault) for fault in caught.value.faults]
    assert len(caught.value.faults) == 5
