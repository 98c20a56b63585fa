"""`yoriai site evaluate`: what an adapter is worth at this site, side by side with everything else there is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape

from yoriai.errors import ConfigError
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from rich.table import Table

    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.model.measure import Tally
    from yoriai.client.offer.job_book import JobBook
    from yoriai.client.offer.job_entry import Entry
    from yoriai.client.versions.deliveries import StoredAdapter
    from yoriai.client.versions.own_models import OwnModels

_STAYS: Final = "measured and kept here: nothing was sent, nothing was written, and no budget was charged"
_NAMES: Final = {
    "adapted": "with the adapter",
    "base": "base before",
    "majority": "commonest label here",
    "naive_bayes": "naive Bayes on own records",
}
_console = Console()


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("evaluate")(evaluate)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    run: Annotated[
        str,
        typer.Option("--run", help="Whose adapter: a run's id, its beginning, or its job's name; default: the last."),
    ] = "",
    channel: Annotated[
        Literal["staging", "production"] | None,
        typer.Option("--channel", help="The version that was pulled into this channel, in place of a delivered one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare an adapter with the base and with counting, on this site's own test records.

    It is the one that was delivered last, a run's, or the version that was pulled into a channel.

    Intervals, exact tests, calibration, labels and languages. It loads a base of its own, beside the daemon's. Nothing
    leaves the site, and no budget is charged.
    """
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.offer.job_book import JobBook

    if run and channel:
        raise ConfigError("--run and --channel name two adapters", remedy="leave one of them out")
    site = SiteFolder(folder.resolve())
    site.config()
    check_writer(site)
    entry = None if channel else _delivered(JobBook(site.jobs), run)
    take_own_cache(site)
    with say_while("reading the records, and loading the base model") as now:
        stored, base_digest = _stored(site, entry) if entry else _pulled(site, channel or "")
        found = _measured(site, stored, base_digest, lambda done, of: now(f"measuring, {done} of {of} records"))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    _print(found, _console)


def _measured(
    site: "SiteFolder", stored: "StoredAdapter", base_digest: str, progress: Callable[[int, int], None]
) -> "OwnModels":
    """Load records and base, and measure every model."""
    from yoriai.client.base.base_model import choose_device, load_base
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.client.records.columns import Reading
    from yoriai.client.records.records import read_site
    from yoriai.client.session.model_session import ModelSession
    from yoriai.client.versions.own_models import compare_on_own

    config = site.config()
    records = read_site(config.name, site.place(config.records.folder), Reading.of(config.records))
    with quiet_libraries():
        base = load_base(config.base.model, device=choose_device(config.speed.device), expected_digest=base_digest)
        return compare_on_own(stored, records, ModelSession(base, config.speed), progress=progress)


def _delivered(book: "JobBook", run: str) -> "Entry":
    """The job whose adapter is meant: the one that is named, or the last that was delivered.

    Raises:
        ConfigError: there is none, or no adapter of it is here.
    """
    if run:
        entry = book.find(run)
        if entry.state != "delivered":
            raise ConfigError(f"no adapter of run {entry.run_id} is here", found=entry.state, expected="delivered")
        return entry
    delivered = [entry for entry in book.entries() if entry.state == "delivered"]
    if not delivered:
        raise ConfigError("no adapter was delivered to this site yet", remedy="see its jobs: yoriai site jobs DIR")
    return delivered[-1]


def _stored(site: "SiteFolder", entry: "Entry") -> tuple["StoredAdapter", str]:
    """The adapter that was delivered, and its base's digest.

    Raises:
        ConfigError: the adapter's folder was moved away.
    """
    from yoriai.client.offer.policy import job_from
    from yoriai.client.versions.adapter_place import folder_of
    from yoriai.client.versions.deliveries import StoredAdapter

    config, place = site.config(), folder_of(site.adapters, entry.run_id, entry.adapter_digest)
    if not place.is_dir():
        raise ConfigError(f"there is no {place}", remedy="put the adapter's folder back, or name another run")
    job = job_from(config.name, config.policy, entry.terms.job)
    return StoredAdapter(entry.run_id, job, place, entry.adapter_digest), entry.terms.base_digest


def _pulled(site: "SiteFolder", channel: str) -> tuple["StoredAdapter", str]:
    """The version in use in a channel, and its base's digest; both were verified when it was pulled.

    Raises:
        ConfigError: there is none, or one that an earlier Yoriai pulled without its job.
        IdentityError: its statement is damaged.
    """
    from yoriai.client.offer.policy import job_from
    from yoriai.client.versions.adapter_place import STATEMENT
    from yoriai.client.versions.channel_place import ChannelPlace
    from yoriai.client.versions.deliveries import StoredAdapter
    from yoriai.privacy.statements.version_statement import JOB_FILE, unverified_version

    config, folder = site.config(), ChannelPlace(site.channels, channel).link.resolve()
    try:
        offered, signed = json.loads((folder / JOB_FILE).read_bytes()), (folder / STATEMENT).read_bytes()
    except (OSError, ValueError):
        raise ConfigError(
            f"no version is in use in {channel}", remedy=f"yoriai site pull DIR --channel {channel}"
        ) from None
    said, job = unverified_version(signed), job_from(config.name, config.policy, offered)
    return StoredAdapter(said.run_id, job, folder, said.adapter_digest), said.base_digest


def _print(found: "OwnModels", console: Console) -> None:
    from yoriai.client.evaluation.tables import HOW, calibration_lines, labels_table, languages_table

    console.print(f"run {found.run_id}, adapter {found.adapter_digest[:12]}", highlight=False, markup=False)
    console.print(_models(found))
    console.print()
    console.print(_changes(found))
    console.print(f"with the adapter minus that model: {HOW}", style="dim", highlight=False)
    if found.labels:
        console.print()
        console.print(labels_table(found.labels))
    if len(found.languages) > 1:
        console.print()
        console.print(languages_table(found.languages))
    console.print()
    for line in _others(found):
        console.print(line, highlight=False, markup=False)
    if (calibrated := found.calibration.get("adapted")) is not None:
        for line in calibration_lines(calibrated):
            console.print(line, highlight=False, markup=False)
    say(_STAYS)


def _models(found: "OwnModels") -> "Table":
    """The scores of every model."""
    from yoriai.client.evaluation.tables import MEASURES, ruled

    names = [name for name in MEASURES if any(_score(tally, name) is not None for tally in found.tallies.values())]
    table = ruled("model", (*(MEASURES[name] for name in names), *(("ECE",) if found.calibration else ())))
    for model, tally in found.tallies.items():
        values = [f"{value:.3f}" if (value := _score(tally, name)) is not None else "–" for name in names]
        if found.calibration:
            values.append(f"{sure.error:.2f}" if (sure := found.calibration.get(model)) else "–")
        table.add_row(escape(_NAMES[model]), *values)
    return table


def _changes(found: "OwnModels") -> "Table":
    """The adapter against every other model, by the measure that tells most."""
    from yoriai.client.evaluation.tables import MEASURES, changed_cells, ruled

    main = _main(found)
    table = ruled("with the adapter against", (f"change in {MEASURES[main]}", "gained", "lost", "p"))
    for model, one in found.against.items():
        counts = None if one.gained is None or one.lost is None else (one.gained, one.lost)
        table.add_row(escape(_NAMES[model]), *changed_cells(one.changes.get(main), counts))
    return table


def _others(found: "OwnModels") -> Iterator[str]:
    """The change of every other measure against the base, and what the adapter weighs."""
    from yoriai.client.evaluation.tables import MEASURES, change_text

    for name, change in found.against["base"].changes.items():
        if name != _main(found):
            yield f"{MEASURES[name]:<14} {change_text(change)} against the base"
    yield f"adapter        {found.adapter_bytes / 1e6:.2f} MB, complete"


def _main(found: "OwnModels") -> str:
    """The task's first measure; where no model gives an answer word for word, exact match would say nothing."""
    if found.kind == "classify":
        return "accuracy"
    exact = any(_score(tally, "exact_match") for tally in found.tallies.values())
    return "exact_match" if exact else "bits_per_byte"


def _score(tally: "Tally", name: str) -> float | None:
    if name == "exact_match":
        return None if tally.confusion is not None else tally.accuracy
    if name == "accuracy":
        return None if tally.confusion is None else tally.accuracy
    if name == "loss":
        return tally.loss if tally.loss_units else None
    value: float | None = getattr(tally, name)
    return value
