"""What a refusal says: every fault at once, each with its place and the nearest known name."""

import pytest

from yoriai.config import parse_job
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


# All at once -------------------------------------------


def test_three_faults_are_all_reported_with_their_lines() -> None:
    text = HEAD + "[privacy]\nepsilon = -1.0\n\n# A comment.\n[lora]\nrank = 0\nlayrs = 3\n"
    with pytest.raises(ConfigError) as caught:
        parse_job(text, "job.toml")
    places = [fault.what.split(" is ")[0] for fault in caught.value.faults]
    assert places == [f"job.toml line {at}" for at in ("4: privacy.epsilon", "8: lora.rank", "9: lora.layrs")]
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)


def test_missing_schema_is_reported_beside_other_faults() -> None:
    assert len(faults("name = 3\n[lora]\nrank = 0\n")) == 3


# Unknown names -----------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("[privacy]\nepsilom = 1.0", "line 4: privacy.epsilom", "did you mean epsilon?"),
        ("[privcy]\nepsilon = 1.0", "line 3: privcy", "did you mean privacy?"),
        (
            "[lora]\nepsilon = 1.0",
            "line 4: lora.epsilon",
            "epsilon belongs under [privacy] or under [personal] or under [gate]",
        ),
        (
            "[lora]\nseed = 1",
            "line 4: lora.seed",
            "seed belongs under [public] or under [training] or under [federation]",
        ),
        ("sampling_rat = 1", "line 3: sampling_rat", "did you mean sampling_rate? It belongs under [training]"),
        ("[lora]\nzzz = 1", "line 4: lora.zzz", "remove it"),
    ],
)
def test_unknown_name_is_led_to_the_nearest_known_one(text: str, place: str, remedy: str) -> None:
    fault = only_fault(HEAD + text + "\n")
    assert fault.what == f"job.toml {place} is not a setting"
    assert fault.remedy == remedy


def test_misspelt_choice_is_led_to_the_nearest_known_one() -> None:
    assert only_fault(HEAD + '[task]\nkind = "clasify"\n').remedy == 'did you mean "classify"?'
