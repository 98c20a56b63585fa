"""The files of a run's folder: `report.json` with its JSON Schema, and the page and figures that are made from it."""

import json
from pathlib import Path
from typing import Final

from pydantic import JsonValue, ValidationError

from yoriai.errors import ConfigError
from yoriai.simulations.report.report import SCHEMA_VERSION, Report
from yoriai.system.run_files import write_run_file

REPORT_FILE: Final = "report.json"


def report_schema() -> dict[str, JsonValue]:
    """The JSON Schema (draft 2020-12) of `report.json`."""
    schema: dict[str, JsonValue] = Report.model_json_schema(by_alias=True, mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def report_json(report: Report) -> str:
    """The text of `report.json`: every key present, null where nothing was measured."""
    return json.dumps(report.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def write_report(report: Report, directory: Path, language: str = "en") -> tuple[Path, ...]:
    """Write `report.json`, `report.html` and `figures/*.png` into a run's folder; returns their paths, in this order.

    `report.json` is written last: a run that has one is finished. Each file replaces its forerunner in one step.

    Args:
        language: of the page's part for the manager: en, ja or es.

    Raises:
        CheckpointError: a file cannot be written (no space, no permission).
    """
    # Drawing needs matplotlib; whoever only reads a report should not pay for it.
    from yoriai.simulations.report.html import page_files

    directory = Path(directory)
    pages = [write_run_file(directory / name, content) for name, content in page_files(report, language)]
    return (write_run_file(directory / REPORT_FILE, report_json(report).encode()), *pages)


def load_report(path: Path) -> Report:
    """Read `report.json`, or the run's folder that holds it.

    Raises:
        ConfigError: no such file, not JSON, another schema version, or keys that do not fit; `faults` lists them all.
    """
    path = Path(path)
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
        version = _schema_version(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no report here", remedy="name a run's folder or its report.json") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON", found=str(error)) from error
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{file}: report of another version",
            found=f"schema {version!r}",
            expected=f"schema {SCHEMA_VERSION}",
            remedy="read it with the Yoriai that wrote it",
        )
    try:
        return Report.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults = tuple(
            ConfigError(f"{'.'.join(map(str, fault['loc'])) or 'report'}: {fault['msg']}") for fault in error.errors()
        )
        listed = "; ".join(str(fault) for fault in faults)
        raise ConfigError(f"{file}: not a valid report", found=listed, faults=faults) from error


def _schema_version(text: str) -> JsonValue:
    content = json.loads(text)
    return content.get("schema") if isinstance(content, dict) else None
