"""A sweep over epsilons as a table for the terminal and as a figure."""

import io
from collections.abc import Mapping, Sequence
from typing import Final

from rich.table import Table

from yoriai.privacy.dp.wording import epsilon_text
from yoriai.simulations.report.figures import new_figure, page_style
from yoriai.simulations.report.metrics import LABELS
from yoriai.simulations.report.report import Score
from yoriai.terminal import RULED

Scores = Mapping[str, Sequence[Score | None]]

# Okabe and Ito (2008), and a form each, so that no eye needs the colour.
_LINES: Final = (("#8d97a5", "o"), ("#c65102", "s"), ("#56b4e9", "^"), ("#0072b2", "D"))


def sweep_table(epsilons: Sequence[float], rows: Scores, yardsticks: Mapping[str, Score]) -> Table:
    """A row each, the last one in bold, with 95 % intervals; what needs no privacy below it. Fits 80 columns."""
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("accuracy over all sites", overflow="fold")
    for epsilon in epsilons:
        table.add_column(f"epsilon {epsilon_text(epsilon)}", justify="right", no_wrap=True)
    for number, (name, scores) in enumerate(rows.items()):
        table.add_row(name, *map(_cell, scores), style="bold" if number == len(rows) - 1 else "")
    table.add_section()
    for name, score in yardsticks.items():
        table.add_row(LABELS[name], _cell(score))
    return table


def _cell(score: Score | None) -> str:
    if score is None or score.accuracy is None:
        return "–"
    interval = "" if score.interval is None else f" ±{(score.interval[1] - score.interval[0]) / 2:.2f}"
    return f"{score.accuracy:.2f}{interval}"


def draw_sweep(title: str, epsilons: Sequence[float], rows: Scores, yardsticks: Mapping[str, Score]) -> bytes:
    """A PNG: a line each over the epsilons, with its 95 % intervals; the yardsticks across."""
    with page_style():
        figure, axes = new_figure(4.0)
        places = list(range(len(epsilons)))
        for shift, ((name, scores), (colour, form)) in enumerate(zip(rows.items(), _LINES, strict=True)):
            points = [(place, score) for place, score in zip(places, scores, strict=True) if score is not None]
            xs = [place + 0.06 * (shift - 1.5) for place, _ in points]
            ys = [score.accuracy or 0.0 for _, score in points]
            axes.plot(xs, ys, color=colour, marker=form, linewidth=2, markersize=7, label=name, zorder=3)
            for x, (_, score) in zip(xs, points, strict=True):
                if score.interval is not None:
                    axes.vlines(x, *score.interval, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
        for name, score in yardsticks.items():
            axes.axhline(score.accuracy or 0.0, color="#5b6573", linewidth=1, linestyle=":")
            axes.annotate(LABELS[name], (places[-1] + 0.35, score.accuracy or 0.0), ha="right", va="bottom", fontsize=9)
        axes.set_xticks(places, [f"epsilon {epsilon_text(epsilon)}" for epsilon in epsilons])
        axes.set_xlim(-0.35, places[-1] + 0.35)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("accuracy")
        axes.set_title(title, fontsize=11.5, loc="left")
        axes.legend(facecolor="white", framealpha=1, edgecolor="none", fontsize=9, loc="lower left").set_zorder(4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
