"""The commands of the runbook, as its pages have them: in blocks of four spaces, each under a heading."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OPERATE = Path(__file__).parents[2] / "docs" / "operate"
PAGES = {
    "operate": OPERATE.parent / "operate.md",
    **{name: OPERATE / f"{name}.md" for name in ("consortium", "coordinator", "site", "recovery")},
}
_BLOCK = re.compile(r"(?m)(?:^ {4}\S.*(?:\n|$))(?:^ {4,}\S.*(?:\n|$))*")
_FENCED = re.compile(r"(?ms)^```.*?^```$")


@dataclass(frozen=True)
class Command:
    """A line of a page that is to be typed; continued ones are one."""

    page: str
    section: str
    text: str

    def filled(self, values: Mapping[str, str]) -> str:
        """With what stands for each name in capitals."""
        names = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
        return re.sub(rf"(?<![A-Za-z_])(?:{names})(?![A-Za-z_])", lambda found: values[found[0]], self.text)


def commands(page: str, section: str | None = None) -> list[Command]:
    """The commands of a page, or of one of its sections, in order.

    Raises:
        AssertionError: there are none under that heading.
    """
    found = [command for command in _commands(page) if section in (None, command.section)]
    assert found, f"{page}: no commands under {section}"
    return found


def _commands(page: str) -> Iterator[Command]:
    text = _FENCED.sub("", PAGES[page].read_text(encoding="utf-8"))
    for part in re.split(r"(?m)^#+ ", text)[1:]:
        title, _, body = part.partition("\n")
        for block in _BLOCK.findall(body):
            joined = re.sub(r" *\\\n +", " ", block)
            yield from (Command(page, title, line.strip()) for line in joined.splitlines() if line.strip())
