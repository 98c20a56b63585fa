"""The template, and the line on which a setting stands, however it is written."""

from typing import Any

import pytest
from pydantic import BaseModel

from yoriai.config import JobConfig, job_template, parse_job
from yoriai.errors import ConfigError, YoriaiError

HEAD = 'schema = 1\nname = "trial"\n'


def only_fault(text: str) -> YoriaiError:
    with pytest.raises(ConfigError) as caught:
        parse_job(text, "job.toml")
    (fault,) = caught.value.faults
    return fault


def test_template_reads_as_the_defaults() -> None:
    assert parse_job(job_template()) == JobConfig(name="my-job")


def test_template_holds_every_setting_and_its_meaning() -> None:
    prose = " ".join(line.removeprefix("# ") for line in job_template().split("\n"))
    lines = [line.removeprefix("#").split(" = ")[0] for line in job_template().split("\n")]
    for key, section in JobConfig.model_fields.items():
        kind: Any = section.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            assert f"[{key}]" in lines
            for name, field in kind.model_fields.items():
                assert name in lines
                assert field.description is not None
                assert field.description in prose


def test_template_fits_ninety_columns_of_comment() -> None:
    assert max(len(line) for line in job_template().split("\n") if line.startswith("# ")) <= 90


def test_switched_off_examples_of_the_template_are_valid() -> None:
    lines = (line.removeprefix("#") if line[1:2] not in ("", " ") else line for line in job_template().split("\n"))
    job = parse_job("\n".join(lines))
    assert job.base.digest is not None
    assert job.task.template is not None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lora.alpha = 1.0\nlora.rank = 0\n", 4),
        ("lora = {alpha = 1.0, rank = 0}\n", 3),
        ('"lora"."rank" = 0\n', 3),
        ("[ lora ] # [privacy]\n\n'rank' = 0\n", 5),
        ('task.template = """\n[lora]\nrank = 5\n{prompt}"""\nlora.rank = 0\n', 7),
        ("task.template = '''\n\"\n#{prompt}'''\nlora.rank = 0\n", 6),
        ('task.template = "\\"[[{ {prompt}#"\nlora.rank = 0\n', 4),
        ('task.template = """{prompt} \\""" x"""""\nlora.rank = 0\n', 4),
        ('task.labels = [ # [\n  "]",\n\n  "[",\n]\n[lora]\nrank = 0', 9),
        ("task.max_tokens = 3\r\nlora.rank = 0\r\n", 4),
        ("# rank = 0\n[lora]\nrank = 0\n", 5),
    ],
)
def test_line_is_found_however_the_key_is_written(text: str, line: int) -> None:
    assert only_fault(HEAD + text).what == f"job.toml line {line}: lora.rank is out of range"


def test_list_item_is_named_by_its_position() -> None:
    assert only_fault(HEAD + '[task]\nlabels = ["a", 3]\n').what == "job.toml line 4: task.labels[1] has the wrong type"


def test_unknown_array_of_tables_is_placed_at_its_header() -> None:
    assert only_fault(HEAD + "[[sites]]\nx = 1\n[[sites]]\nx = 2\n").what == "job.toml line 3: sites is not a setting"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[lora\n", 3),
        ("rank = hello\n", 3),
        ("[lora]\n\n[lora]\n", 5),
        ('name = "again"\n', 3),
        ('\nx = """never closed\n\n', 4),
        ("\nx = " + "[" * 100_000, 4),
    ],
)
def test_broken_toml_is_placed(text: str, line: int) -> None:
    fault = only_fault(HEAD + text)
    assert fault.what.startswith(f"job.toml line {line}")
    assert fault.what.endswith("this is not TOML")
    assert "at line" not in fault.found
