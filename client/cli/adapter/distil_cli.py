"""`site distil`: a site's head learns from a large model's labels of public prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoriai.client.cli.adapter.route_cli import allowing, answers_of, loaded, texts_of, version_of
from yoriai.errors import ConfigError, PolicyError
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.routing.opening import Routes
    from yoriai.client.routing.router import Routed


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("distil")(distil)


def distil(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Public prompts: .jsonl, .json or .csv.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the head that has learnt.")],
    public: Annotated[
        bool, typer.Option("--public", help="You declare that the prompts are public, or may be made so.")
    ] = False,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="The head to go on from; default: the version in use.")
    ] = None,
    hints: Annotated[
        bool, typer.Option("--hints", help="The large model is told the small one's label of each prompt.")
    ] = False,
    test: Annotated[
        Path | None, typer.Option("--test", help="Public records with labels: both models are measured on them.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With route.mode = ask: every prompt may leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the large model that site.toml names label public prompts, and train the site's head on its labels.

    No record of the site leaves, and no ledger is charged. The prompts leave redacted, within the day's cap, and are
    written down. What was learnt is a folder of its own, for `site serve --adapter`; no version changes.
    """
    from yoriai.client.routing.opening import Routes

    if not public:
        raise PolicyError(
            "only public prompts are distilled from",
            expected="--public, by which you declare them so",
            remedy="look at the file first; `site route --dry-run` shows what would leave of it",
        )
    if out.exists():
        raise ConfigError(f"{out} exists", remedy="name another folder")
    site, place = version_of(folder, adapter)
    routes = Routes(site.config().route, site.path)
    with say_while("asking the large model") as doing:
        report = _distil(site, place, routes, file, out, hints=hints, test=test, yes=yes, doing=doing)
    routes.close()
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    asked, taught = report["asked"], report["taught"]
    say(f"{asked} public prompts asked, {taught} answered with a label, cost {report['cost']:g}; wrote {out}")
    for why in report["faults"]:
        say(f"left out where {why}")
    if "accuracy" in report:
        said = ", ".join(f"{name} {value:.3f}" for name, value in report["accuracy"].items())
        say(f"accuracy on {report['tested']} test records: {said}")


def _distil(
    site: "SiteFolder",
    place: Path,
    routes: "Routes",
    file: Path,
    out: Path,
    *,
    hints: bool,
    test: Path | None,
    yes: bool,
    doing: Any,
) -> dict[str, Any]:
    from yoriai.client.base.base_model import choose_device, load_base
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.client.routing.distilling import ask_all, learn, mark, read_head, refuse_private
    from yoriai.client.routing.report import Price, summary
    from yoriai.client.session.export import save_adapter
    from yoriai.client.session.model_session import ModelSession
    from yoriai.config import SpeedSection
    from yoriai.privacy.dp.randomness import SystemSource
    from yoriai.system.files import folder_made_whole

    config, small = site.config(), loaded(site, place)
    job, start = read_head(place, config.base.model)
    prompts, _ = texts_of(file, small)
    tested = None if test is None else texts_of(test, small)
    _refuse(site, [*prompts, *(tested[0] if tested else ())], refuse_private)
    router = routes.router(place, small.labels, everything=True)
    allow = allowing(routes.settings.mode, yes=yes)

    def ask(texts: Sequence[str], *, hinted: bool) -> list["Routed"]:
        said = [local.label for local in answers_of(small, list(texts))]
        told = lambda done: doing(f"the large model has answered {done} of {len(texts)}")  # noqa: E731
        return ask_all(router, texts, said, hints=hinted, allow=allow, progress=told)

    answers = ask(prompts, hinted=hints)
    with quiet_libraries():
        session = ModelSession(load_base(config.base.model, device=choose_device("cpu")), SpeedSection())
    learnt = learn(session, job, start, prompts, answers, source=SystemSource())
    with folder_made_whole(out.resolve(), alone=True) as part:
        save_adapter(session, job, learnt, part)
        mark(part, went_on_from=place.name, large=routes.settings.model, prompts=len(prompts), hints=hints)
    found = summary(answers, None, Price(routes.settings.price_prompt, routes.settings.price_answer))
    report: dict[str, Any] = {"schema": 1, "asked": len(prompts), "taught": found["large"]}
    report |= {"cost": found["cost"], "faults": found["faults"]}
    if tested is not None:
        report |= _measured(tested, small, loaded(site, out), ask)
    return report


def _refuse(site: "SiteFolder", prompts: list[str], check: Any) -> None:
    """Hold the prompts against the site's own records, where it has any."""
    from yoriai.client.records.columns import Reading
    from yoriai.client.records.records import is_site, read_site

    config = site.config()
    place = site.place(config.records.folder)
    if is_site(place):
        own = read_site(config.name, place, Reading.of(config.records))
        check(prompts, (*own.train, *own.test))


def _measured(tested: tuple[list[str], list[str] | None], small: Any, learnt: Any, ask: Any) -> dict[str, Any]:
    """Accuracy on public records: the small head before and after, the large model without and with hints."""
    texts, truths = tested
    if truths is None:
        raise ConfigError("the test records have labels that the version does not know", remedy="correct the file")

    def share(labels: list[str]) -> float:
        return round(sum(a == b for a, b in zip(labels, truths, strict=True)) / len(truths), 4)

    def large(*, hinted: bool) -> float:
        """Where it does not answer, it is wrong: the small one's label is not its own."""
        said = [one.label if one.where == "large" else "" for one in ask(texts, hinted=hinted)]
        return share(said)

    return {
        "tested": len(texts),
        "accuracy": {
            "small before": share(small.predict(texts)),
            "small after": share(learnt.predict(texts)),
            "large alone": large(hinted=False),
            "large with hints": large(hinted=True),
        },
    }
