"""`site calibrate`, which answers are sure enough to be kept here, and `site route`, which sends the others on."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yoriai.client.cli.adapter.adapter_option import Adapter
from yoriai.errors import ConfigError
from yoriai.terminal import one_line, say, say_rows, say_while

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.routing.opening import Routes
    from yoriai.client.routing.router import Local, Routed
    from yoriai.client.session.loading import Trained

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("calibrate")(calibrate)
    site.command("route")(route)


def calibrate(folder: _Folder, adapter: Adapter = None, as_json: _Json = False) -> None:
    """Find the margin from which the version's answers are kept, on the site's test records.

    With confidence 1 - route.delta, route.share of what is kept is right, on texts that come as these records did.
    """
    from yoriai.client.routing.calibration_file import version_digest, write_calibration
    from yoriai.client.routing.threshold import calibrate as find
    from yoriai.client.routing.threshold import fewest_records, margins_of

    site, place = version_of(folder, adapter)
    settings = site.config().route
    with say_while("answering the test records"):
        import numpy as np

        trained = loaded(site, place)
        texts, truths = _held_out(site, trained)
        margins = margins_of(trained.probabilities(texts).double().numpy())
        right = np.array([label == truth for label, truth in zip(trained.predict(texts), truths, strict=True)])
    found = find(margins, right, share=settings.share, delta=settings.delta)
    path = write_calibration(site.path / "route", version_digest(place), found)
    if as_json:
        typer.echo(path.read_text(encoding="utf-8"))
        return
    say(f"{found.records} test records, {int(right.sum())} of them answered right by {place.name}")
    if not found.kept:
        fewest = fewest_records(settings.share, settings.delta)
        say(f"no part of the answers is sure enough for a share of {settings.share:g}: all go on to the large model")
        say(f"at least {fewest} records that are kept and right are needed; more test records, or a lower route.share")
        return
    say(f"kept from a margin of {max(0.0, found.margin):.3f}: {found.kept}, of which {found.right} are right")
    say(f"with confidence {1 - found.delta:g}, {found.share:g} of the kept answers are right; wrote {path}")


def route(
    folder: _Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Texts or records: .jsonl, .json or .csv.")],
    adapter: Adapter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would leave, and send nothing.")] = False,
    curve: Annotated[
        bool, typer.Option("--curve", help="Ask the large model about every text, for cost against accuracy.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the report as JSON.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With route.mode = ask: every unsure text may leave.")] = False,
    as_json: _Json = False,
) -> None:
    """Answer each text of a file: here where the answer is sure, else by the large model that site.toml names.

    What leaves is redacted, written down in route/left.jsonl before, and counted against the day's cap. Where the file
    has the labels, the report says how often small, large and both are right.
    """
    from yoriai.client.routing.opening import Routes

    if curve and dry_run:
        raise ConfigError("--curve asks the large model, and --dry-run sends nothing", remedy="leave one of them out")
    site, place = version_of(folder, adapter)
    routes = Routes(site.config().route, site.path, dry_run=dry_run)
    with say_while("answering here"):
        trained = loaded(site, place)
        texts, truths = texts_of(file, trained)
        locals_ = answers_of(trained, texts)
    allow = allowing(routes.settings.mode, yes=yes or dry_run)
    router = routes.router(place, trained.labels)
    routed = [router.route(text, local, allow=allow) for text, local in zip(texts, locals_, strict=True)]
    report = _report(routes, place, trained.labels, texts, truths, locals_, routed, curve=curve, allow=allow)
    routes.close()
    if out is not None:
        from yoriai.system.files import write_atomically

        write_atomically(out, json.dumps(report, indent=1, ensure_ascii=False).encode())
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        _show(report, routed, dry_run=dry_run)


def version_of(folder: Path, adapter: str | None) -> tuple["SiteFolder", Path]:
    """The site, and the folder of the version that is meant."""
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.versions.adapter_choice import chosen_adapter

    site = SiteFolder(folder.resolve())
    site.config()
    check_writer(site)
    take_own_cache(site)
    return site, chosen_adapter(site.channels, site.adapters, adapter)


def loaded(site: "SiteFolder", place: Path) -> "Trained":
    """The version in memory. Raises ConfigError for one that writes."""
    from yoriai.client.session.loading import load

    trained = load(place, site.config().base.model, device="cpu")
    if not trained.labels:
        raise ConfigError("only answers that are labels are routed", found=f"{place.name}, which writes")
    return trained


def _held_out(site: "SiteFolder", trained: "Trained") -> tuple[list[str], list[str]]:
    """The site's test records that fit the labels: texts and labels."""
    from yoriai.client.records.columns import Reading
    from yoriai.client.records.records import read_site

    config = site.config()
    records = read_site(config.name, site.place(config.records.folder), Reading.of(config.records)).test
    fitting = [(r.prompt, r.response) for r in records if r.prompt and r.response in trained.labels]
    if not fitting:
        raise ConfigError(
            "no test record has a label of the version", remedy="name the adapter that fits with --adapter"
        )
    return [str(text) for text, _ in fitting], [str(label) for _, label in fitting]


def texts_of(file: Path, trained: "Trained") -> tuple[list[str], list[str] | None]:
    """The texts of a file, and their labels where each has one."""
    from yoriai.client.records.records import read_records

    records = read_records(file)
    texts = [record.prompt or record.text for record in records]
    if not all(texts):
        raise ConfigError(f"{file} has records without a text", expected="a prompt or a text in each")
    truths = [record.response for record in records]
    known = all(truth in trained.labels for truth in truths)
    return [str(text) for text in texts], [str(truth) for truth in truths] if known else None


def answers_of(trained: "Trained", texts: list[str]) -> list["Local"]:
    """The small model's own answers, with their margins."""
    from yoriai.client.routing.router import Local
    from yoriai.client.routing.threshold import margins_of

    rows = trained.probabilities(texts).double().numpy()
    labels = [trained.labels[int(row.argmax())] for row in rows]
    return [Local(label, float(margin)) for label, margin in zip(labels, margins_of(rows), strict=True)]


def allowing(mode: str, *, yes: bool) -> Callable[[str], bool]:
    """Who says that a message may leave."""
    if mode == "auto" or yes:
        return lambda _message: True

    def ask(message: str) -> bool:
        say("this would leave:")
        say_rows(message)
        return typer.confirm("Let it leave?")

    return ask


def _report(
    routes: "Routes",
    place: Path,
    labels: tuple[str, ...],
    texts: list[str],
    truths: list[str] | None,
    locals_: list["Local"],
    routed: list["Routed"],
    *,
    curve: bool,
    allow: Callable[[str], bool],
) -> dict[str, Any]:
    from yoriai.client.routing.report import Price, summary
    from yoriai.client.routing.report import curve as curve_of

    price = Price(routes.settings.price_prompt, routes.settings.price_answer)
    found: dict[str, Any] = {"schema": 1, "version": place.name, "both": summary(routed, truths, price)}
    if truths is not None:
        right = [local.label == truth for local, truth in zip(locals_, truths, strict=True)]
        found["small"] = {"accuracy": round(sum(right) / len(right), 4)}
    if curve and truths is not None:
        every = routes.router(place, labels, everything=True)
        large = [  # What has been asked is not asked, and paid, twice.
            one if one.where in ("large", "fault") else every.route(text, local, allow=allow)
            for one, text, local in zip(routed, texts, locals_, strict=True)
        ]
        found["large"] = summary(large, truths, price)
        found["curve"] = curve_of([one.margin for one in locals_], right, large, truths, price)
    found["texts"] = [asdict(one) for one in routed]
    return found


def _show(report: dict[str, Any], routed: list["Routed"], *, dry_run: bool) -> None:
    both = report["both"]
    if dry_run:
        for one in routed:
            if one.would_leave is not None:
                say("would leave:")
                say_rows(one.would_leave)
    say(f"{both['texts']} texts: {both['kept']} kept here ({both['share_kept']:.0%}), {both['held']} held here")
    say(
        f"{both['large']} answered by the large model at a cost of {both['cost']:g}, {both['fault']} not answered by it"
    )
    for why in both["faults"]:
        say(one_line(f"the local answer stands where {why}"))
    if "small" in report:
        large = f", large {report['large']['accuracy']:.3f}" if "large" in report else ""
        say(f"accuracy: small {report['small']['accuracy']:.3f}{large}, both {both['accuracy']:.3f}")
    if "curve" in report:
        table = Table("sent", "cost", "accuracy", box=None, pad_edge=False)
        for point in report["curve"]:
            table.add_row(f"{point['sent']:.0%}", f"{point['cost']:g}", f"{point['accuracy']:.3f}")
        Console().print(table)
