"""The pages say what is so: commands, events, metrics, versions, messages and tests that they name exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from yoriai.cli import app
from yoriai.client.daemon.socket_protocol import SOCKET_VERSION
from yoriai.privacy.ledger.book import FORMAT
from yoriai.server.round.migration import SCHEMA
from yoriai.wire import PROTOCOL_VERSION

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"(?m)^ {4,}(\S.*)$")
_INLINE = re.compile(r"`([^`\n]*\byoriai [^`\n]*)`")
_LOGGING = ("client", "server", "yoriai")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def command_lines(text: str) -> Iterator[list[str]]:
    """Every `yoriai ...` of a page, as words; those of code blocks joined where a backslash says so."""
    joined = text.replace("\\\n", " ")
    for line in [*_BLOCK.findall(joined), *_INLINE.findall(joined)]:
        for part in line.split("&&"):
            if "yoriai " not in part or "from yoriai " in part:
                continue
            words = shlex.split(part, comments=True)
            if "yoriai" in words:
                yield words[words.index("yoriai") + 1 :]


def check_command(words: list[str]) -> None:
    """Raise click's error unless there is such a command, with such options and that many arguments."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="yoriai")
    while isinstance(command, click.Group):
        if not words:
            return
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]}")
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    given, surplus, _ = command.make_parser(context).parse_args(list(words))
    if surplus:
        raise click.UsageError(f"too many arguments: {surplus}")
    # In running text a command is often named without what it works on; with anything given it has to be whole.
    missing = [param.name for param in command.params if param.required and not given.get(param.name or "")]
    if words and missing:
        raise click.UsageError(f"missing: {missing}")


@pytest.mark.parametrize(("page", "least"), [("docs/operate.md", 50), ("docs/simulate.md", 10), ("README.md", 9)])
def test_every_command_that_a_page_names_exists_with_its_options(page: str, least: int) -> None:
    lines = list(command_lines((ROOT / page).read_text(encoding="utf-8")))
    assert len(lines) >= least
    for words in lines:
        try:
            check_command(words)
        except click.UsageError as error:
            pytest.fail(f"yoriai {' '.join(words)}: {error.message}")


@pytest.mark.parametrize(
    "words", [["site", "strat"], ["site", "start", "--sameuser"], ["site", "stop", "A", "B"], ["job", "submit", "F"]]
)
def test_a_command_that_does_not_exist_is_found_out(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        check_command(words)


def logged() -> set[str]:
    """Every name that is given to a log as an event, wherever that is done."""
    names: set[str] = set()
    for path in sources(*_LOGGING):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                if node.func.attr in ("event", "_fault") and isinstance(first, ast.Constant):
                    names.add(str(first.value))
    return names | {"connected", "disconnected"}  # By a variable, in server/service/progress.py.


def explained() -> set[str]:
    """The names in the first column of the tables of events."""
    section = RUNBOOK.split("## Logs\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([a-z_]+)`", cell)}


def test_every_event_is_explained_and_every_explained_event_is_logged() -> None:
    assert explained() == logged()


def test_every_metric_that_is_named_is_served_and_the_other_way_round() -> None:
    section = RUNBOOK.split("## Metrics\n")[1].split("\n## ")[0]
    modules = ("client/daemon/site_metrics.py", "server/service/server_metrics.py")
    served = "".join((ROOT / module).read_text(encoding="utf-8") for module in modules)
    named = {name.removesuffix("_total") for name in re.findall(r"`yoriai_([a-z_]+)", section)}
    assert {name for name in named if f'"{name}"' not in served} == {"stage_seconds"}
    for name in re.findall(r'"((?:site|node|job)_[a-z_]+|rounds|refusals)"', served):
        stem = name.removeprefix("site_epsilon")
        assert name in section or f"`{stem}`" in section, name


def test_versions_and_refusals_are_those_of_the_code() -> None:
    for text in (
        f"`PROTOCOL_VERSION` ({PROTOCOL_VERSION})",
        f"`SOCKET_VERSION` ({SOCKET_VERSION})",
        f"`schema` ({SCHEMA}), `server/round/migration.py`",
        f"format ({FORMAT}), `privacy/ledger/book.py`",
    ):
        assert text in RUNBOOK
    code = "".join(path.read_text(encoding="utf-8") for path in sources("client", "server", "privacy", "yoriai"))
    told = (
        "a message has another protocol version",
        "speaks another version",
        "is of too old a version",
        "is of a newer version",
        "this Yoriai reads schema 1",
        "this is no prepared job",
        "was made by another version of Yoriai",
        "is of another version or kind",
        "of another Yoriai version",
        "is older than one seen before",
        "is an old copy or was cut",
        "is behind what this site has signed for it",
        "and its second place",
        "has another base model",
        "cannot be written",
        "not connected",
    )
    for text in told:
        assert text in RUNBOOK, text
        assert text in code, text


def test_every_file_and_section_that_the_runbook_points_to_is_there() -> None:
    for path in re.findall(r"`((?:client|server|privacy|yoriai)/[a-z_/]+\.py)`", RUNBOOK):
        assert (ROOT / path).is_file(), path
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"(?m)^## (.*)$", RUNBOOK)}
    assert set(re.findall(r"\]\(#([a-z-]+)\)", RUNBOOK)) <= anchors


@pytest.mark.parametrize("page", ["threat-model.md", "privacy.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    known = {path.relative_to(ROOT).as_posix() for path in paths} | {path.name for path in paths}
    known |= {path.stem for path in paths}
    known |= set(re.findall(r"(?m)^def (test_\w+)", "".join(path.read_text(encoding="utf-8") for path in paths)))
    named = re.findall(r"`([\w/]*test_\w+(?:\.py)?)`", text)
    assert len(named) > 10
    assert [name for name in named if name not in known] == []


DOCS = ("README", "architecture", "glossary", "release", "simulate")
WAY_IN = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{name}.md" for name in DOCS))


@pytest.mark.parametrize("page", WAY_IN)
def test_every_file_that_a_page_of_the_way_in_points_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    paths = set(re.findall(r"`((?:client|docs|privacy|server|simulations|strategies|tests|yoriai)/[a-z_/.]+)`", text))
    assert links | paths
    assert [link for link in sorted(links) if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()] == []


@pytest.mark.parametrize("page", WAY_IN)
def test_a_page_of_the_way_in_is_wrapped(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_readme_is_one_page_and_the_glossary_in_order() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 70
    words = re.findall(r"(?m)^- \*\*([^*]+?)\.?\*\*", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    assert len(words) > 50
    assert words == sorted(words, key=str.lower)
