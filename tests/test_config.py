"""Job and site files: what is read, what is refused, and what the refusal says."""

import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from yoriai.config import (
    JobConfig,
    SiteConfig,
    job_json_schema,
    job_template,
    job_to_toml,
    load_job,
    load_site,
    override,
    parse_job,
    parse_site,
)
from yoriai.errors import ConfigError, YoriaiError

HEAD = 'schema = 1\nname = "trial"\n'


def faults(text: str) -> tuple[YoriaiError, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_job(text, "job.toml")
    assert caught.value.faults
    return caught.value.faults


def only_fault(text: str) -> YoriaiError:
    (fault,) = faults(text)
    return fault


# What is read ------------------------------------------


def test_name_and_schema_suffice() -> None:
    assert parse_job(HEAD) == JobConfig(name="trial")


def test_defaults_are_the_agreed_ones() -> None:
    job = JobConfig(name="trial")
    assert (job.schema_, job.lora.rank, job.lora.layers, job.privacy.epsilon, job.privacy.delta) == (
        1,
        16,
        "last:8",
        8.0,
        1e-5,
    )
    assert (job.training.sampling_rate, job.federation.rule, job.federation.rounds) == (0.12, "core", 50)
    assert (job.base.digest, job.task.template, job.task.labels) == (None, None, ())


def test_whole_number_stands_for_a_float() -> None:
    epsilon = parse_job(HEAD + "[privacy]\nepsilon = 4\n").privacy.epsilon
    assert epsilon == 4.0
    assert isinstance(epsilon, float)


def test_job_is_frozen() -> None:
    job = JobConfig(name="trial")
    with pytest.raises(ValidationError, match="frozen"):
        job.privacy.epsilon = 100.0


def test_epsilon_may_stand_beside_no_noise() -> None:
    assert parse_job(HEAD + '[privacy]\nnoise = "none"\nepsilon = 3.0\n').privacy.noise == "none"


def test_dense_layers_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="at the same epsilon the noise in it would be some twenty times as large"):
        parse_job(f'{HEAD}[lora]\nlayers = "dense:1,last:3"\n')


@pytest.mark.parametrize("layers", ["all", "last:1", "last:30"])
def test_layers_are_read(layers: str) -> None:
    assert parse_job(f'{HEAD}[lora]\nlayers = "{layers}"\n').lora.layers == layers


def test_job_file_is_read_with_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode())
    assert load_job(path) == JobConfig(name="trial")


# What is refused ---------------------------------------


@pytest.mark.parametrize("name", ["", "two words", "../up", "-x", "a" * 65])
def test_bad_name_is_refused(name: str) -> None:
    assert only_fault(f'schema = 1\nname = "{name}"\n').what.startswith("job.toml line 2: name")


def test_missing_schema_is_refused_with_the_line_to_add() -> None:
    fault = only_fault('name = "trial"\n')
    assert fault.what == "job.toml line 1: schema is missing"
    assert "`schema = 1`" in fault.remedy


@pytest.mark.parametrize("value", ["2", "0", "1.0", "true", '"1"'])
def test_other_schema_is_refused(value: str) -> None:
    fault = only_fault(f'schema = {value}\nname = "trial"\n')
    assert fault.what == "job.toml line 1: schema: this Yoriai reads schema 1"
    assert fault.found == value


def test_missing_name_says_where_it_belongs() -> None:
    fault = only_fault("schema = 1\n")
    assert fault.what == "job.toml line 1: name is missing"
    assert fault.remedy == "add `name = ...` at the top of the file, before the first table"


def test_table_given_as_a_value_is_refused() -> None:
    fault = only_fault(HEAD + "lora = 16\n")
    assert fault.what == "job.toml line 3: lora has the wrong type"
    assert "[lora] on a line of its own" in fault.remedy


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        ("training", "proximal_mu = -0.1", "a number of at least 0 and at most 10000"),
        ("training", 'schedule = "step"', 'one of "constant", "linear", "cosine"'),
        ("training", "lowpass = 1", "true or false"),
        ("federation", 'aggregation = "mode"', 'one of "mean", "median", "trimmed_mean", "krum"'),
        ("federation", "trim_fraction = 0.5", "a number above 0 and below 0.5"),
        ("federation", "trim_fraction = 0", "a number above 0 and below 0.5"),
        ("federation", "byzantine_sites = 0", "a whole number of at least 1 and below 2^63"),
        ("federation", "update_norm_bound = 0", "a number of at least 1e-06 and at most 1e+06"),
        ("federation", 'server_optimizer = "yoga"', 'one of "none", "damped", "momentum", "adam", "yogi"'),
    ],
)
def test_setting_of_the_rules_surroundings_out_of_bounds_is_refused(table: str, line: str, expected: str) -> None:
    fault = only_fault(f"{HEAD}[{table}]\n{line}\n")
    assert fault.what.startswith(f"job.toml line 4: {table}.{line.partition(' ')[0]}")
    assert fault.expected == expected


def test_long_value_is_shown_cut() -> None:
    assert len(only_fault(f'{HEAD}[task]\ntemplate = "{"x" * 5000}"\n').found) == 80


def test_number_too_long_for_python_is_refused() -> None:
    assert faults(f"{HEAD}[lora]\nrank = {'9' * 5000}\n")
    assert faults(f"{HEAD}[lora]\nrank = 0x{'f' * 5000}\n")
    assert faults(f"{HEAD}[lora]\nalpha = {'9' * 400}\n")


# Files that cannot be read -----------------------------


def test_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_job(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_job(tmp_path)


def test_file_that_is_not_utf8_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(HEAD.encode() + b"# \xff\n")
    with pytest.raises(ConfigError, match=r"job.toml line 3: this is not UTF-8 text"):
        load_job(path)


# Written out and read back -----------------------------

_count = st.integers(min_value=1, max_value=2**62)
_texts = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True).map(tuple)
_any_settings = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        "base.digest": st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        "base.model": st.text(min_size=1),
        "lora.rank": st.integers(min_value=1, max_value=8192),
        "lora.alpha": st.floats(min_value=1e-3, max_value=1e4),
        "lora.target_modules": _texts,
        "lora.layers": st.just("all") | _count.map("last:{}".format),
        "task.template": st.none() | st.text().map(lambda text: text.replace("{prompt}", "") + "{prompt}"),
        "task.labels": _texts,
        "training.sampling_rate": st.floats(min_value=1e-6, max_value=1),
        "training.schedule": st.sampled_from(["constant", "linear", "cosine"]),
        "training.proximal_mu": st.floats(min_value=0, max_value=1e4),
        "training.lowpass": st.booleans(),
        "training.seed": st.integers(min_value=0, max_value=2**63 - 1),
        "privacy.noise": st.sampled_from(["local", "none"]),
        "privacy.epsilon": st.floats(min_value=1e-6, max_value=1e3),
        "privacy.delta": st.floats(min_value=1e-15, max_value=0.5),
        "federation.participation": st.floats(min_value=1e-6, max_value=1),
        "federation.rule": st.text(min_size=1),
        "federation.aggregation": st.sampled_from(["mean", "median", "trimmed_mean", "krum"]),
        "federation.trim_fraction": st.floats(min_value=0, max_value=0.5, exclude_min=True, exclude_max=True),
        "federation.byzantine_sites": _count,
        "federation.update_norm_bound": st.none() | st.floats(min_value=1e-6, max_value=1e6),
        "speed.prefix_cache": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None)
@given(changes=_any_settings)
def test_toml_of_any_job_reads_back_as_that_job(changes: dict[str, object]) -> None:
    job = override(JobConfig(name="trial"), changes)
    assert parse_job(job_to_toml(job)) == job


# JSON Schema -------------------------------------------


def _valid(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(job_json_schema()).is_valid(tomllib.loads(text)))


def test_json_schema_is_one_of_draft_2020_12() -> None:
    assert job_json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(job_json_schema())


def test_json_schema_accepts_the_template() -> None:
    assert _valid(job_template())


@pytest.mark.parametrize(
    "text",
    [
        'name = "trial"',
        "schema = 1",
        'schema = 2\nname = "trial"',
        HEAD + "[lora]\nrank = 0",
        HEAD + "[lora]\nrnk = 1",
        HEAD + '[task]\nlabels = ["a", "a"]',
        HEAD + "[privacy]\ndelta = 1.0",
        HEAD + "[kpis]",
    ],
)
def test_json_schema_refuses_what_the_parser_refuses(text: str) -> None:
    assert faults(text)
    assert not _valid(text)


# Overrides ---------------------------------------------


def test_override_changes_only_what_it_names() -> None:
    job = JobConfig(name="trial")
    changed = override(job, {"privacy.epsilon": 4.0, "task.labels": ["a", "b"]})
    assert (changed.privacy.epsilon, changed.task.labels) == (4.0, ("a", "b"))
    assert override(changed, {"privacy.epsilon": 8.0, "task.labels": ()}) == job
    assert job == JobConfig(name="trial")


def test_override_takes_a_whole_section() -> None:
    section = JobConfig(name="other").lora.model_copy(update={"rank": 3})
    changed = override(JobConfig(name="trial"), {"lora": section, "lora.alpha": 2.0})
    assert (changed.lora.rank, changed.lora.alpha) == (3, 2.0)


def test_override_checks_again_and_names_every_bad_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        override(JobConfig(name="trial"), {"privacy.epsilon": -1.0, "lora.rnk": 3, "nothing.x": 1, "name.x": 1})
    whats = {fault.what for fault in caught.value.faults}
    assert whats == {
        "setting privacy.epsilon is out of range",
        "setting lora.rnk is not a setting",
        "setting nothing is not a setting",
        "setting name has the wrong type",
    }


def test_override_with_one_bad_setting_says_all_in_its_message() -> None:
    with pytest.raises(
        ConfigError,
        match=r"setting privacy\.epsilon is out of range; found -1.0; expected a number of at least 1e-06 and",
    ):
        override(JobConfig(name="trial"), {"privacy.epsilon": -1.0})


# Site files --------------------------------------------


@pytest.mark.parametrize("digest", ["0a" * 64, "0a" * 32])
def test_site_file_is_read(tmp_path: Path, digest: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'schema = 1\nname = "north"\n[policy]\nepsilon_budget = 2\nbase_digests = ["{digest}"]\n')
    site = load_site(path)
    assert (site.name, site.policy.epsilon_budget, site.policy.base_digests) == ("north", 2.0, (digest,))


def test_site_defaults_are_the_agreed_ones() -> None:
    policy = SiteConfig(name="north").policy
    assert (policy.epsilon_budget, policy.min_sites, policy.base_digests, policy.allow_no_privacy) == (
        16.0,
        2,
        (),
        False,
    )


@pytest.mark.parametrize("digest", ["", "0a" * 33, "0A" * 64, "0a" * 96])
def test_what_is_no_digest_of_a_base_is_refused(digest: str) -> None:
    with pytest.raises(ConfigError, match="128 lower-case hexadecimal digits"):
        parse_job(f'schema = 1\nname = "pumps"\n[base]\ndigest = "{digest}"\n')


def test_all_faults_of_a_site_file_are_reported() -> None:
    text = 'name = "north"\n[policy]\nepsilon_budget = 0\nmin_sites = 0\nbase_digests = ["x"]\nallow_no_privcy = true\n'
    with pytest.raises(ConfigError) as caught:
        parse_site(text, "site.toml")
    lines = [fault.what.split(":")[0] for fault in caught.value.faults]
    assert lines == [f"site.toml line {number}" for number in (1, 3, 4, 5, 6)]


def test_job_table_in_a_site_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="gate is not a setting"):
        parse_site('schema = 1\nname = "north"\n[gate]\n')


# Import and pickling -----------------------------------


def test_job_survives_pickling() -> None:
    job = override(JobConfig(name="trial"), {"lora.rank": 3})
    assert pickle.loads(pickle.dumps(job)) == job


def test_import_leaves_heavy_libraries_unloaded() -> None:
    code = (
        "import sys, yoriai.config; "
        "print(*sorted({'torch', 'numpy', 'flwr', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
