"""The chain of versions behind one, as `server show --json` has it: a table, and a page with its curve.

The page is one file without script or outside link; every text in it is escaped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from yoriai.errors import ConfigError
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.system.files import read_carried

PAGE_FILE: Final = "chain.html"
_WIDTH, _HEIGHT, _EDGE = 640, 260, 46
_Share = Annotated[float, Field(ge=0, le=1)]
_Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Link(BaseModel):
    """One version of a chain; see `server/jobs/chain.py`, whose words these are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(max_length=128)
    ended: str = Field(max_length=40)
    rounds: int = Field(ge=1)
    accuracy: _Share | None
    epsilon: _Epsilon | None
    delta: _Share | None
    together: _Epsilon | None


def read_chain(path: Path) -> tuple[Link, ...] | None:
    """The chain in what `server show --json` wrote, the first version first; None where a file holds something else.

    Raises:
        ConfigError: a chain that does not match the expected schema.
        StorageError: it cannot be read.
    """
    try:
        document = json.loads(read_carried(path, "the chain", at_most_mib=64))
        links = document["chain"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        return TypeAdapter(tuple[Link, ...]).validate_python(links)
    except ValidationError:
        raise ConfigError(
            f"{path} holds no chain of versions", remedy="yoriai server show SERVER VERSION --json, of the same Yoriai"
        ) from None


def chain_table(links: Sequence[Link]) -> Table:
    """A row a version, the first one first."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "ended", "rounds", "accuracy", "epsilon", "together"):
        table.add_column(name, overflow="fold")
    for row in _rows(links):
        table.add_row(*map(Text, row))
    return table


def chain_page(links: Sequence[Link]) -> bytes:
    """The page: the curve of the scores over the steps, what each step cost, and all of them together."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    points = [(x, link) for x, link in zip(_places(len(links)), links, strict=True) if link.accuracy is not None]
    dots = [{"x": x, "y": _height(link.accuracy or 0.0), "score": f"{link.accuracy:.3f}"} for x, link in points]
    page = environment.from_string(_PAGE).render(
        width=_WIDTH,
        height=_HEIGHT,
        edge=_EDGE,
        ticks=[{"y": _height(share), "text": f"{share:.2f}"} for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
        dots=dots,
        line=" ".join(f"{dot['x']:.1f},{dot['y']:.1f}" for dot in dots),
        steps=list(enumerate(_places(len(links)), start=1)),
        rows=list(enumerate(_rows(links), start=1)),
    )
    return page.encode()


def _rows(links: Sequence[Link]) -> list[tuple[str, ...]]:
    def privacy(epsilon: float | None) -> str:
        return "no guarantee" if epsilon is None else epsilon_text(epsilon)

    return [
        (
            link.run,
            link.ended[:10],
            str(link.rounds),
            "not given" if link.accuracy is None else f"{link.accuracy:.3f}",
            privacy(link.epsilon),
            privacy(link.together),
        )
        for link in links
    ]


def _places(count: int) -> list[float]:
    room = _WIDTH - 2 * _EDGE
    return [_EDGE + room * (n + 0.5) / count for n in range(count)]


def _height(share: float) -> float:
    return _HEIGHT - _EDGE - share * (_HEIGHT - 2 * _EDGE)


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Chain of versions</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 sans-serif; max-width: 46rem; margin: 2rem auto; color: #1d2733 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem .3rem 0 }
th { border-bottom: 1px solid #8d97a5 } svg { width: 100% } text { font-size: 12px; fill: #5b6573 }
</style></head><body>
<h1>Chain of versions</h1>
<p>Each version's job went on from the one before it. The curve is the accuracy that was given when it was promoted.</p>
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="Accuracy of each version of the chain">
{% for tick in ticks %}
<line x1="{{ edge }}" x2="{{ width - edge }}" y1="{{ tick.y }}" y2="{{ tick.y }}" stroke="#dfe4ea"/>
<text x="8" y="{{ tick.y + 4 }}">{{ tick.text }}</text>
{% endfor %}
{% for number, x in steps %}
<text x="{{ x }}" y="{{ height - 16 }}" text-anchor="middle">{{ number }}</text>
{% endfor %}
<polyline points="{{ line }}" fill="none" stroke="#0072b2" stroke-width="2"/>
{% for dot in dots %}
<circle cx="{{ dot.x }}" cy="{{ dot.y }}" r="4" fill="#0072b2"/>
<text x="{{ dot.x }}" y="{{ dot.y - 9 }}" text-anchor="middle">{{ dot.score }}</text>
{% endfor %}
</svg>
<table><tr><th></th><th>run</th><th>ended</th><th>rounds</th><th>accuracy</th><th>epsilon</th><th>together</th></tr>
{% for number, row in rows %}
<tr><td>{{ number }}</td>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p>Epsilon is what a job may cost a record that is in it, spare rounds included; together is what all jobs up to there
may cost a record that is in every one of them, added up by Rényi divergences at the largest delta among them. What a
site was really charged stands in its ledger.</p>
</body></html>
"""
