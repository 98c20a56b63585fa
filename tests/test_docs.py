"""The pages say what is so: commands, events, metrics, versions, messages, files and tests that they name exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.commands import check_command
from yoriai import cli
from yoriai.client.daemon.socket_protocol import SOCKET_VERSION
from yoriai.privacy.ledger.book import FORMAT
from yoriai.server.round.migration import SCHEMA
from yoriai.wire import PROTOCOL_VERSION

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# A changelog tells of what was; every other page tells of what is.
PAGES = [*sorted(DOCS.rglob("*.md")), *(page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md")]
OPERATION = [DOCS / "operate.md", *sorted((DOCS / "operate").glob("*.md"))]
RUNBOOK = "\n".join(page.read_text(encoding="utf-8") for page in OPERATION)
_BLOCK = re.compile(r"(?m)^ {4,}(\S.*)$")
_FENCED = re.compile(r"(?ms)^ *```\w*\n(.*?)^ *```")
_INLINE = re.compile(r"`([^`\n]*\byoriai [^`\n]*)`")
_LOGGING = ("client", "server", "yoriai")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=_name)


def section(page: str, title: str) -> str:
    """What stands under a heading of a page of the runbook, up to the next one."""
    return (DOCS / "operate" / page).read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def table(text: str) -> list[list[str]]:
    """The cells of the rows of a page's tables."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")
    ]


def command_lines(text: str) -> Iterator[list[str]]:
    """Every `yoriai ...` of a page, as words; those of code blocks joined where a backslash says so."""
    joined = text.replace("\\\n", " ")
    fenced = [line for block in _FENCED.findall(joined) for line in block.splitlines()]
    for line in [*_BLOCK.findall(joined), *fenced, *_INLINE.findall(joined)]:
        for part in line.split("&&"):
            if "yoriai " not in part or "from yoriai " in part:
                continue
            words = shlex.split(part, comments=True)
            if "yoriai" in words:
                yield words[words.index("yoriai") + 1 :]


@every_page
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        try:
            check_command(words)
        except click.UsageError as error:
            pytest.fail(f"yoriai {' '.join(words)}: {error.message}")


def known_commands() -> dict[tuple[str, ...], click.Command]:
    """Every command of the groups that a federation is operated with."""
    top = cli.command()
    assert isinstance(top, click.Group)
    known: dict[tuple[str, ...], click.Command] = {}
    for name in ("federation", "server", "site", "job"):
        group = top.commands[name]
        assert isinstance(group, click.Group)
        known |= {(name, part): command for part, command in group.commands.items()}
    return known


def test_the_reference_has_every_command_and_no_option_that_it_has_not() -> None:
    known = known_commands()
    rows = {tuple(row[0].strip("`").split()[1:3]): row[2] for row in table(section("reference.md", "Commands"))[1:]}
    assert set(rows) == set(known)
    for name, told in rows.items():
        options = {option for param in known[name].params for option in param.opts}
        assert set(re.findall(r"`(--[a-z-]+)`", told)) <= options, name


def test_the_commands_of_the_runbook_are_found_in_it() -> None:
    assert len(list(command_lines(RUNBOOK))) > 80


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
                if node.func.attr in ("event", "_fault", "heartbeat") and isinstance(first, ast.Constant):
                    names.add(str(first.value))
    return names | {"connected", "disconnected"}  # By a variable, in server/jobs/progress.py.


def explained() -> set[str]:
    """The names in the first column of the tables of events."""
    rows = [line.split("|")[1] for line in section("reference.md", "Logs").splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([a-z_]+)`", cell)}


def test_every_event_is_explained_and_every_explained_event_is_logged() -> None:
    assert explained() == logged()


def test_every_metric_that_is_named_is_served_and_the_other_way_round() -> None:
    pages = section("reference.md", "Metrics")
    modules = ("client/daemon/site_metrics.py", "server/service/server_metrics.py")
    served = "".join((ROOT / module).read_text(encoding="utf-8") for module in modules)
    named = {name.removesuffix("_total") for name in re.findall(r"`yoriai_([a-z_]+)", pages)}
    assert {name for name in named if f'"{name}"' not in served} == {"stage_seconds"}
    for name in re.findall(r'"((?:site|node|job)_[a-z_]+|rounds|refusals)"', served):
        stem = name.removeprefix("site_epsilon")
        assert name in pages or f"`{stem}`" in pages, name


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


def anchors(page: Path) -> set[str]:
    """The names by which a link reaches the headings of a page, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.*)$", _FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_every_file_of_this_repository_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "client|docs|privacy|server|simulations|strategies|tests|yoriai"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    known = {
        path.name for path in sources("client", "privacy", "server", "simulations", "strategies", "tests", "yoriai")
    }
    assert {name for name in re.findall(r"`([\w-]+\.py)`", text) if name not in known} == set()


def known_tests() -> dict[str, set[str]]:
    """The names of the tests of each file, by the file's name without its ending."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    found: dict[str, set[str]] = {path.stem: set() for path in paths}
    for path in paths:
        found[path.stem] |= set(re.findall(r"(?m)^def (test_\w+)", path.read_text(encoding="utf-8")))
    return found


@every_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    files = known_tests()
    everything = set.union(*files.values())
    for file, name, more in re.findall(r"`(?:(test_\w+)::)?(test_\w+)(…?)`", page.read_text(encoding="utf-8")):
        among = files[file] if file else everything | set(files)
        assert any(known.startswith(name) if more else known == name for known in among), f"{file}::{name}{more}"


@pytest.mark.parametrize("page", ["threat-model.md", "threat-model/proofs.md", "privacy.md"])
def test_the_pages_about_security_name_tests(page: str) -> None:
    assert len(re.findall(r"`(?:test_\w+::)?test_\w+…?`", (DOCS / page).read_text(encoding="utf-8"))) > 20


def test_the_threat_model_is_one_page_on_which_every_promise_names_a_test_and_every_party_its_promises() -> None:
    text = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    parties, promises = (
        table(text.split(f"\n## {title}\n")[1].split("\n## ")[0])
        for title in ("The parties", "What is promised, and against whom")
    )
    numbers = [int(row[0]) for row in promises[1:]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all("`test" in row[3] or "`tests/" in row[3] for row in promises[1:])
    held = {int(number) for row in parties[1:] for number in re.findall(r"\d+", row[3])}
    assert held <= set(numbers)


_ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) ")


def long_lines(text: str, width: int = 120) -> list[str]:
    """The lines of a page's prose that are too long; tables, code, headings and what links lead to are not prose."""
    too_long, fenced, listed = [], False, False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        listed = bool(_ITEM.match(line)) or (listed and (not line or line.startswith(" ")))
        code = fenced or (line.startswith("    ") and not listed)
        if not code and not line.startswith(("|", "#")) and len(re.sub(r"\]\([^)]*\)", "]", line)) > width:
            too_long.append(line)
    return too_long


@every_page
def test_prose_is_wrapped_at_120_characters(page: Path) -> None:
    assert long_lines(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("word " * 30, True),
        ("- " + "word " * 30, True),
        ("- item\n\n    " + "word " * 30, True),
        ("| " + "word " * 30 + "|", False),
        ("    " + "word " * 30, False),
        ("```\n" + "word " * 30 + "\n```", False),
        ("word [here](" + "x" * 120 + ")", False),
    ],
)
def test_long_lines_are_those_of_prose(line: str, found: bool) -> None:
    assert bool(long_lines(line)) is found


def test_every_decision_has_a_number_a_date_and_a_status_as_the_index_says() -> None:
    superseded = r"superseded by \[(\d+)\]\((\d{4}-[\w-]+\.md)\)"
    rows = []
    for number, page in enumerate(sorted((DOCS / "decisions").glob("0*.md")), start=1):
        title, blank, line, *_ = page.read_text(encoding="utf-8").splitlines()
        found = re.fullmatch(
            rf"Date: (\d{{4}}-\d\d-\d\d)\. Status: (accepted(?:; [^:;]+: {superseded})*|{superseded})\.", line
        )
        assert found is not None, page.name
        assert title.startswith(f"# {number}. ")
        assert page.name.startswith(f"{number:04}-")
        assert blank == ""
        assert all(
            int(later) > number and file.startswith(f"{int(later):04}-") for later, file in re.findall(superseded, line)
        )
        rows.append([f"[{number}]({page.name})", title.partition(". ")[2], found[1], found[2]])
    assert table((DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))[1:] == rows


def test_the_readme_is_one_page_and_the_glossary_in_order() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 70
    words = re.findall(r"(?m)^- \*\*([^*]+?)\.?\*\*", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    assert len(words) > 50
    assert words == sorted(words, key=str.lower)
