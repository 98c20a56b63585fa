"""The bounds of each setting: what lies outside is refused, at its line, with all texts."""

import pytest

from yoriai.config import parse_job
from yoriai.errors import ConfigError

BAD_SETTINGS = [
    ("base", 'model = ""'),
    ("base", 'digest = "abc"'),
    ("base", f'digest = "{"A" * 64}"'),
    ("lora", "rank = 0"),
    ("lora", "rank = 1.0"),
    ("lora", "rank = true"),
    ("lora", "alpha = 0.0"),
    ("lora", "target_modules = []"),
    ("lora", 'target_modules = ["q_proj", "q_proj"]'),
    ("lora", 'layers = "last:0"'),
    ("lora", 'layers = "last"'),
    ("lora", 'layers = "first:3"'),
    ("task", 'kind = "regress"'),
    ("task", 'template = "no place for it"'),
    ("task", 'template = "{prompt} {prompt}"'),
    ("task", 'labels = ["yes", "no", "yes"]'),
    ("task", 'labels = ["yes", ""]'),
    ("task", 'labels = "yes"'),
    ("task", "max_tokens = 0"),
    ("task", 'too_long = "drop"'),
    ("training", "local_steps = 0"),
    ("training", "sampling_rate = 0.0"),
    ("training", "sampling_rate = 1.01"),
    ("training", "records_per_weight = 0"),
    ("training", 'optimizer = "lion"'),
    ("training", "learning_rate = 0"),
    ("training", "seed = -1"),
    ("training", "seed = 9223372036854775808"),
    ("privacy", 'noise = "some"'),
    ("privacy", "epsilon = 0"),
    ("privacy", 'epsilon = "8"'),
    ("privacy", "epsilon = inf"),
    ("privacy", "epsilon = nan"),
    ("privacy", "delta = 0.0"),
    ("privacy", "delta = 1.0"),
    ("privacy", "clip_norm = 0.0"),
    ("privacy", 'unit = "site"'),
    ("privacy", "records_per_owner = 0"),
    ("privacy", "spare_rounds = -1"),
    ("privacy", 'accountant = "moments"'),
    ("federation", 'rule = ""'),
    ("federation", "rounds = 0"),
    ("federation", "min_sites = 0"),
    ("federation", "participation = 0.0"),
    ("federation", "participation = 1.5"),
    ("federation", 'schedule = "step"'),
    ("federation", 'server_optimizer = "adagrad"'),
    ("federation", "server_learning_rate = 0.0"),
    ("federation", "server_momentum = 1.0"),
    ("federation", "seed = -1"),
    ("evaluation", "every = -1"),
    ("speed", 'device = "gpu"'),
    ("speed", "physical_batch_size = 0"),
    ("speed", "threads = -1"),
    ("speed", "prefix_cache = 1"),
]


@pytest.mark.parametrize(("table", "line"), BAD_SETTINGS)
def test_bad_value_is_refused_with_place_and_texts(table: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(f'schema = 1\nname = "trial"\n\n[{table}]\n{line}\n', "job.toml")
    (fault,) = caught.value.faults
    key = line.partition(" =")[0]
    assert fault.what.startswith(f"job.toml line 5: {table}.{key}")
    assert fault.found
    assert fault.expected
    assert fault.remedy
