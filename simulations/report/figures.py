"""The figures of a report, drawn once and given twice: PNG for slides, SVG that follows the page's light or dark.

Colours are the colour-blind-safe ones of Okabe and Ito (2008). In the SVG each becomes a CSS variable of the page, and
text stays text, so that a figure can be searched, read aloud and printed. A figure is drawn only if the report has its
data.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from yoriai.privacy.dp.wording import epsilon_text, terms
from yoriai.simulations.report.metrics import LABELS, Metric, main_metric
from yoriai.simulations.report.report import TRAININGS, Report, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Light-mode colour, and the page's variable that stands for it. No two are equal: the SVG is recoloured by name.
_INK, _SOFT, _RULE = "#1d2430", "#5b6573", "#d9dee5"
_BEFORE, _AFTER, _SPENT = "#8d97a5", "#0072b2", "#c65102"
_VARIABLES: Final = {
    _INK: "--ink",
    _SOFT: "--soft",
    _RULE: "--rule",
    _BEFORE: "--before",
    _AFTER: "--after",
    _SPENT: "--spent",
}
_STYLE: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    # A dollar sign in a site's name is a dollar sign.
    "text.parse_math": False,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "yoriai",
}
_WIDTH: Final = 6.4


@dataclass(frozen=True)
class Drawing:
    """One figure: `key` names its file, `alt` says in words what it shows."""

    key: str
    title: str
    alt: str
    svg: str
    png: bytes
    wide: bool = False


def draw(report: Report) -> tuple[Drawing, ...]:
    """All figures that this report has the data for, in the page's order."""
    metric = main_metric(report)
    makers = (_accuracy_by_round, _loss_by_round, _by_site, _epsilon_by_round, _compared)
    with page_style():
        return tuple(drawing for maker in makers if (drawing := maker(report, metric)) is not None)


@contextmanager
def page_style() -> Iterator[None]:
    """Fonts and lines of every figure, for as long as the context lasts."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(height: float, width: float = _WIDTH) -> tuple["Figure", "Axes"]:
    """An empty figure, in inches."""
    # Figure and canvas are made by hand: pyplot would keep global state and might look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _drawing(
    figure: "Figure", key: str, title: str, alt: str, *, wide: bool = False, png_names: Sequence[str] = ()
) -> Drawing:
    # The PNG stands alone and carries its title; on the page a heading does.
    heading = figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12.5)
    png, svg = io.BytesIO(), io.StringIO()
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()] if png_names else []
    if png_names:
        figure.axes[0].set_xticklabels(png_names)
    figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    if png_names:
        figure.axes[0].set_xticklabels(names)
    heading.set_visible(False)
    heading.set_in_layout(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # The page's reader has the letters.
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Drawing(key, title, alt, _for_page(svg.getvalue(), key, alt), png.getvalue(), wide)


def _for_page(svg: str, key: str, alt: str) -> str:
    """Matplotlib's SVG as one element of the page: unique ids, the page's colours and fonts, a text alternative."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", svg)
    head = re.match(r"<svg[^>]*>", svg)
    view = re.search(r'viewBox="([^"]*)"', svg)
    if head is None or view is None:
        return svg
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    opening = f'<svg viewBox="{view[1]}" role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return opening + svg[head.end() :]


def _points(report: Report, key: str) -> tuple[list[int], list[float]]:
    """Rounds that evaluated, with the untouched base as round 0."""
    start = getattr(report.overall["base"], key)
    pairs = [] if start is None else [(0, start)]
    pairs += [(one.round, value) for one in report.rounds if (value := getattr(one, key)) is not None]
    return [number for number, _ in pairs], [value for _, value in pairs]


def _accuracy_by_round(report: Report, _metric: Metric) -> Drawing | None:
    return _curve(report, "accuracy", "Accuracy by round")


def _loss_by_round(report: Report, _metric: Metric) -> Drawing | None:
    return _curve(report, "loss", "Loss by round")


def _curve(report: Report, key: str, title: str) -> Drawing | None:
    """One measure over the rounds that evaluated, with base and commonest label as lines to compare with."""
    from matplotlib.ticker import MaxNLocator

    rounds, values = _points(report, key)
    if len(values) < 2:
        return None
    figure, axes = new_figure(3.5)
    found = [(name, getattr(report.overall[name], key)) for name in ("base", "majority") if name in report.overall]
    references = [(LABELS[name], value) for name, value in found if value is not None]
    dashes: tuple[Any, ...] = ("--", (0, (1, 2)))
    for (_, value), dash in zip(references, dashes, strict=False):
        axes.axhline(value, color=_SOFT, linewidth=1.2, linestyle=dash, zorder=2)
    axes.plot(rounds, values, color=_AFTER, linewidth=2.2, marker="o", markersize=4.2, clip_on=False, zorder=4)
    axes.set_xlim(0, rounds[-1])
    axes.set_ylim(0, max([*values, *(value for _, value in references)]) * 1.2 or 1.0)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    labels = [(values[-1], f"{values[-1]:.2f} federated", _AFTER)]
    labels += [(value, f"{value:.2f} {name}", _SOFT) for name, value in references]
    _labels_right(axes, rounds[-1], labels)
    alt = f"Line: {key} on all sites' test records, {values[0]:.2f} before, {values[-1]:.2f} after {rounds[-1]} rounds."
    alt += "".join(f" Reference line: {name} {value:.2f}." for name, value in references)
    return _drawing(figure, key, title, alt)


def _labels_right(axes: "Axes", x: float, labels: list[tuple[float, str, str]]) -> None:
    """Labels beside the ends of lines, moved apart where the lines end close together."""
    low, high = axes.get_ylim()
    gap, lowest_free = 0.075 * (high - low), low
    for y, text, colour in sorted(labels):
        place = max(y, lowest_free)
        lowest_free = place + gap
        weight = "normal" if colour == _SOFT else "bold"
        axes.annotate(text, (x, place), (8, 0), textcoords="offset points", va="center", color=colour, weight=weight)


def _by_site(report: Report, metric: Metric) -> Drawing | None:
    """Before and after for each site, and for all; whiskers are the 95 % intervals."""
    rows = [(site.name, site.base, site.federated, site.majority) for site in report.sites]
    inside = {site.name: site.identifier or site.name for site in report.sites}
    rows.append(("all sites", report.overall["base"], report.overall.get("federated"), report.overall.get("majority")))
    shown = [row for row in rows if metric.of(row[1]) is not None and metric.of(row[2]) is not None]
    if not shown:
        return None
    figure, axes = new_figure(3.6, width=max(_WIDTH * 2, 1.05 * len(shown)))
    for index, (_, before, after, majority) in enumerate(shown):
        _bar(axes, index - 0.19, before, metric, _BEFORE)
        _bar(axes, index + 0.19, after, metric, _AFTER)
        if (value := metric.of(majority)) is not None:
            axes.hlines(value, index - 0.38, index + 0.38, color=_INK, linestyle=(0, (1, 1.5)), zorder=5)
    names = [f"{name}\n{before.records:,} test records" for name, before, _, _ in shown]
    plain = [
        name if _has_glyphs(name) else name.replace(row[0], inside[row[0]], 1)
        for name, row in zip(names, shown, strict=True)
    ]
    axes.set_xticks(range(len(shown)), names)
    axes.set_ylabel(metric.label)
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)
    _key(axes, with_majority=any(metric.of(row[3]) is not None for row in shown))
    words = "; ".join(f"{name} {metric.text_of(b)} to {metric.text_of(a)}" for name, b, a, _ in shown)
    alt = f"Bars: {metric.label} by site, before to after: {words}."
    return _drawing(figure, "sites", "Each site, before and after", alt, wide=True, png_names=plain)


def _has_glyphs(text: str) -> bool:
    """Whether the figures' font can write a text; a page's reader brings fonts, and a PNG's does not."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return all(ord(character) in known for character in text if character != "\n")


def _key(axes: "Axes", *, with_majority: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = [
        (Patch(color=_BEFORE), LABELS["base"]),
        (Patch(color=_AFTER), LABELS["federated"]),
    ]
    if with_majority:
        entries.append((Line2D([], [], color=_INK, linestyle=(0, (1, 1.5))), LABELS["majority"]))
    handles, names = zip(*entries, strict=True)
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, handlelength=1.2)


def _bar(axes: "Axes", x: float, score: Score | None, metric: Metric, colour: str) -> None:
    value = metric.of(score)
    if value is None or score is None:
        return
    axes.bar(x, value, width=0.34, color=colour, zorder=2)
    top = value
    if (interval := metric.interval_of(score)) is not None:
        low, top = interval
        axes.vlines(x, low, top, color=_INK, linewidth=1.1, zorder=4)
    axes.annotate(
        metric.text_of(score), (x, top), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=10.5
    )


def _epsilon_by_round(report: Report, _metric: Metric) -> Drawing | None:
    from matplotlib.ticker import MaxNLocator

    pairs = [(one.round, one.epsilon) for one in report.rounds if one.epsilon is not None]
    target = report.privacy.epsilon_target
    if not pairs or target is None:
        return None
    rounds, values = [0, *(number for number, _ in pairs)], [0.0, *(value for _, value in pairs)]
    figure, axes = new_figure(3.5)
    axes.axhline(target, color=_SOFT, linewidth=1.2, linestyle="--")
    # The first step's cost is a jump: epsilon does not grow in proportion to the rounds.
    axes.fill_between(rounds, values, step="post", color=_SPENT, alpha=0.12, linewidth=0)
    axes.step(rounds, values, where="post", color=_SPENT, linewidth=2.2, clip_on=False, zorder=4)
    axes.set_xlim(0, rounds[-1])
    axes.set_ylim(0, max(target, values[-1]) * 1.15)
    axes.annotate(f"budget of the job: {target:g}", (0, target), (0, 4), textcoords="offset points", color=_SOFT)
    _labels_right(axes, rounds[-1], [(values[-1], f"{epsilon_text(values[-1])} spent", _SPENT)])
    told = terms(report.privacy.unit, report.privacy.accountant)
    axes.set_xlabel(f"round\nepsilon {told}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    alt = f"Steps: epsilon spent {told} reaches {epsilon_text(values[-1])} of {target:g} after {rounds[-1]} rounds."
    return _drawing(figure, "epsilon", "Epsilon spent by round (largest of any site)", alt)


def _compared(report: Report, metric: Metric) -> Drawing | None:
    """Every training that was measured, as one dot with its interval."""
    rows = [(name, score) for name in TRAININGS if metric.of(score := report.overall.get(name)) is not None and score]
    if len(rows) < 4:
        return None
    figure, axes = new_figure(0.42 * len(rows) + 0.75)
    for index, (name, score) in enumerate(rows):
        colour = _AFTER if name == "federated" else _BEFORE
        value = metric.of(score) or 0.0
        if (interval := metric.interval_of(score)) is not None:
            axes.hlines(index, *interval, color=colour, linewidth=2.4, zorder=3)
        axes.plot(value, index, "o", color=colour, markersize=8, zorder=4)
        _label_above(axes, value, index, metric.text_of(score))
    axes.set_yticks(range(len(rows)), [LABELS[name] for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    if metric.is_share:  # Bits of several trainings lie close together, and none of them near zero.
        axes.set_xlim(left=0)
    else:
        axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel(metric.label)
    words = "; ".join(f"{LABELS[name]} {metric.text_of(score)}" for name, score in rows)
    return _drawing(figure, "compared", "Compared with other trainings", f"Dots: {metric.label}: {words}.")


def _label_above(axes: "Axes", x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), (0, 6), textcoords="offset points", ha="center", va="bottom", fontsize=10.5)
