"""An evaluation for the terminal: every model on the same test records, then labels, calibration and cost."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yoriai.simulations.evaluation.document import p_value
from yoriai.simulations.evaluation.evaluation import Evaluation
from yoriai.simulations.report.claims import LABELS, Metric, known_metrics, main_metric
from yoriai.simulations.report.html import score_text, size_text
from yoriai.simulations.report.report import TRAININGS, Change, Compared, Report
from yoriai.simulations.report.table import RULED

_SHOWN_LABELS: Final = 5


def print_evaluation(found: Evaluation, console: Console) -> None:
    """Print it; fits 80 columns."""
    console.print(models_table(found))
    if found.report.against:
        console.print()
        console.print(changes_table(found.report))
        console.print(
            "federated minus that model on the same test records: 95 % paired bootstrap, ? = it holds\n"
            "zero; p: exact sign test on the records whose answer changed",
            style="dim",
            highlight=False,
        )
    if found.labels:
        console.print()
        console.print(labels_table(found))
    console.print()
    for line in lines(found):
        console.print(line, highlight=False, markup=False)


def models_table(found: Evaluation) -> Table:
    """The scores of every model that was measured."""
    report, metrics = found.report, _metrics(found.report)
    table = _table("model", (*(metric.label for metric in metrics), *(("ECE",) if found.calibration else ())))
    for name in TRAININGS:
        if (score := report.overall.get(name)) is not None:
            calibrated = found.calibration.get(name)
            error = (f"{calibrated.error:.2f}" if calibrated else "–",) if found.calibration else ()
            values = (score_text(score, metric) for metric in metrics)
            table.add_row(escape(LABELS[name]), *values, *error, style="bold" if name == "federated" else "")
    return table


def changes_table(report: Report) -> Table:
    """The federated adapter against every other model, by the measure that the report leads with."""
    main = main_metric(report)
    table = _table("federated against", (f"change in {main.label}", "gained", "lost", "p"))
    for name in TRAININGS:
        if (compared := report.against.get(name)) is not None:
            table.add_row(escape(LABELS[name]), *_against(compared, main))
    return table


def labels_table(found: Evaluation) -> Table:
    """The labels that gained and lost most, each with its counts."""
    table = _table("label", ("records", "right before", "after", "gained", "lost", ""))
    words = {"gain": "shown", "loss": "shown, worse", "open": "?", "unmeasured": ""}
    chosen = found.labels
    if len(chosen) > 2 * _SHOWN_LABELS:
        chosen = chosen[:_SHOWN_LABELS] + chosen[-_SHOWN_LABELS:]
    for one in chosen:
        counts = (one.records, one.right_before, one.right_after, one.gained, one.lost)
        table.add_row(escape(one.label), *map(str, counts), words[one.verdict])
    return table


def lines(found: Evaluation) -> Iterator[str]:
    """What a table has no place for."""
    if (latency := found.latency) is not None:
        yield (
            f"one answer     {latency.p50_ms:.0f} ms (p50), {latency.p95_ms:.0f} ms (p95) of {latency.answers}; "
            f"loading takes {latency.load_s:.0f} s; {latency.peak_memory_mb:,.0f} MB at most"
        )
    yield f"training       {found.report.peak_memory_mb:,.0f} MB at most"
    yield f"adapter        {size_text(found.adapter_bytes)} on disk"
    if (calibrated := found.calibration.get("federated")) is not None:
        filled = [one for one in calibrated.bins if one.records]
        yield f"calibration    ECE {calibrated.error:.3f} over {len(calibrated.bins)} bins of equal width; confidence:"
        for one in filled:
            yield (
                f"  {one.low:.1f} to {one.high:.1f}: {one.records} answers, "
                f"sure {one.confidence or 0:.2f}, right {one.accuracy or 0:.2f}"
            )


def _table(first: str, headings: Sequence[str]) -> Table:
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold", vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table


def _metrics(report: Report) -> list[Metric]:
    """The task's measures in its order, macro-F1 among them."""
    known = {metric.key: metric for metric in known_metrics(report.task.metrics)}
    known.setdefault("macro_f1", Metric("macro_f1", "macro-F1", True))
    return [known[name] for name in report.task.metrics if name in known]


def _against(compared: Compared, main: Metric) -> tuple[str, ...]:
    change = compared.changes.get(main.key)
    if compared.paired is None:
        return (_change_text(change), "", "", "")
    paired = compared.paired
    return (_change_text(change), f"{paired.gained}", f"{paired.lost}", f"{p_value(paired):.2g}")


def _change_text(change: Change | None) -> str:
    if change is None:
        return "–"
    open_mark = " ?" if change.low <= 0 <= change.high else ""
    return escape(f"{change.change:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{open_mark}")
