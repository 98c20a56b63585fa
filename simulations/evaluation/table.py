"""An evaluation for the terminal: every model on the same test records, then labels, calibration and cost."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yoriai.client.evaluation.tables import (
    HOW,
    MEASURES,
    calibration_lines,
    change_text,
    changed_cells,
    labels_table,
    languages_table,
    ruled,
)
from yoriai.simulations.evaluation.evaluation import Evaluation
from yoriai.simulations.report.html import size_text
from yoriai.simulations.report.metrics import LABELS, Metric, known_metrics, main_metric
from yoriai.simulations.report.report import TRAININGS, Compared, Report


def print_evaluation(found: Evaluation, console: Console) -> None:
    """Print it; fits 80 columns."""
    console.print(models_table(found))
    if found.report.against:
        console.print()
        console.print(changes_table(found.report))
        console.print(f"federated minus that model: {HOW}", style="dim", highlight=False)
    if found.labels:
        console.print()
        console.print(labels_table(found.labels))
    if found.languages:
        console.print()
        console.print(languages_table(found.languages))
    console.print()
    for line in lines(found):
        console.print(line, highlight=False, markup=False)


def models_table(found: Evaluation) -> Table:
    """The scores of every model that was measured."""
    report, metrics = found.report, _metrics(found.report)
    table = ruled("model", (*(metric.label for metric in metrics), *(("ECE",) if found.calibration else ())))
    for name in TRAININGS:
        if (score := report.overall.get(name)) is not None:
            calibrated = found.calibration.get(name)
            error = (f"{calibrated.error:.2f}" if calibrated else "–",) if found.calibration else ()
            values = (metric.text_of(score) for metric in metrics)
            table.add_row(escape(LABELS[name]), *values, *error, style="bold" if name == "federated" else "")
    return table


def changes_table(report: Report) -> Table:
    """The federated adapter against every other model, by the measure that the report leads with."""
    main = main_metric(report)
    table = ruled("federated against", (f"change in {main.label}", "gained", "lost", "p"))
    for name in TRAININGS:
        if (compared := report.against.get(name)) is not None:
            table.add_row(escape(LABELS[name]), *_against(compared, main))
    return table


def lines(found: Evaluation) -> Iterator[str]:
    """What a table has no place for."""
    if (compared := found.report.against.get("base")) is not None:
        main = main_metric(found.report).key
        for name in MEASURES:
            if name != main and (change := compared.changes.get(name)) is not None:
                yield f"{MEASURES[name]:<14} {change_text(change)} against the base"
    if (latency := found.latency) is not None:
        yield (
            f"one answer     {latency.p50_ms:.0f} ms (p50), {latency.p95_ms:.0f} ms (p95) of {latency.answers}, "
            f"{latency.tokens_per_s:,.0f} tokens {latency.tokens_are} a second;"
        )
        yield f"               loading takes {latency.load_s:.0f} s; {latency.peak_memory_mb:,.0f} MB at most"
    yield f"training       {found.report.peak_memory_mb:,.0f} MB at most"
    yield f"adapter        {size_text(found.adapter_bytes)} on disk"
    if (forgotten := found.forgetting) is not None:
        yield f"general texts  {forgotten.told()}"
    if (calibrated := found.calibration.get("federated")) is not None:
        yield from calibration_lines(calibrated)


def _metrics(report: Report) -> list[Metric]:
    """The task's measures in its order, macro-F1 among them."""
    known = {metric.key: metric for metric in known_metrics(report.task.metrics)}
    known.setdefault("macro_f1", Metric("macro_f1", "macro-F1", True))
    return [known[name] for name in report.task.metrics if name in known]


def _against(compared: Compared, main: Metric) -> tuple[str, ...]:
    change, paired = compared.changes.get(main.key), compared.paired
    return changed_cells(change, None if paired is None else (paired.gained, paired.lost))
