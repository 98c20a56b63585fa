"""`yoriai export` and `yoriai site export`: an adapter for other programs, judged before it is handed out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.cli.adapter.adapter_option import Adapter
from yoriai.terminal import say, say_while

_console = Console()
_Out = Annotated[Path, typer.Option("--out", help="New folder of the export.")]
_Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="gguf-adapter (the default: the base's file and the adapter's beside it), gguf (merged), peft or merged.",
    ),
]
_Type = Annotated[str | None, typer.Option("--type", help="Of a merged GGUF file: f16 (the default) or q8_0.")]
_Base = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was trained.")]
_Check = Annotated[
    Literal["auto", "llama", "transformers"],
    typer.Option(
        "--check", help="What loads a GGUF file to judge it: llama (extra edge), transformers, or what is here."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def mount(app: typer.Typer, site: typer.Typer) -> None:
    """Add `export` to the application and to its group `site`."""
    app.command("export")(export)
    site.command("export")(site_export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of an adapter.")],
    out: _Out,
    form: _Format = None,
    kind: _Type = None,
    base: _Base = None,
    check: _Check = "auto",
    as_json: _Json = False,
) -> None:
    """Write a run's adapter for llama.cpp, Ollama, PEFT, vLLM or transformers, once it answers as it should.

    The export is loaded and asked public texts; it is refused if it is no nearer to the adapted model than the base
    without the adapter. The figures are in export.json.
    """
    from yoriai.client.edge.adapter_folder import find_folder

    _export(find_folder(run), out, form, kind, base, check, as_json=as_json)


def site_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    out: _Out,
    adapter: Adapter = None,
    form: _Format = None,
    kind: _Type = None,
    check: _Check = "auto",
    as_json: _Json = False,
) -> None:
    """Write an adapter that the site has, as `yoriai export` does, with the site's own base."""
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.versions.adapter_choice import chosen_adapter

    site = SiteFolder(folder.resolve())
    config = site.config()
    take_own_cache(site)
    _export(
        chosen_adapter(site.channels, site.adapters, adapter),
        out,
        form,
        kind,
        config.base.model,
        check,
        as_json=as_json,
    )


def _export(
    source: Path, out: Path, form: str | None, kind: str | None, base: str | None, check: str, *, as_json: bool
) -> None:
    with say_while("exporting, and asking the export"):
        from yoriai.client.edge.exporting import Asked
        from yoriai.client.edge.exporting import export as write
        from yoriai.client.edge.judging import Check

        document = write(source, out.absolute(), Asked(form, kind, base, cast(Check, check)))
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in _rows(document):
        table.add_row(Text(name, style="bold"), Text(text))
    _console.print(table)
    say(f"wrote {out}")


def _rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    judged, files = document["judged"], document["files"]
    kind = f", {document['type']}" if document.get("type") else ""
    rows = [
        ("format", document["format"] + kind),
        ("files", ", ".join(f"{name} {entry['bytes'] / 1e6:.1f} MB" for name, entry in files.items())),
        ("loaded by", judged["loaded_by"]),
    ]
    if "own_effect" in judged:
        own = judged["own_effect"]
        share = f", {judged['relative']:.1%} of what the adapter does" if judged["relative"] is not None else ""
        rows.append(("off by", f"{judged['kl']:.2e} nats a token{share} ({own:.2e})"))
        rows.append(
            ("same top token", f"{judged['top1']:.0%} of {judged['positions']} texts; base {judged['own_top1']:.0%}")
        )
    if judged.get("labels") is not None:
        rows.append(("same label", f"{judged['labels']:.0%}"))
    if judged.get("same_tokens") is not None:
        rows.append(("same tokens", f"{judged['same_tokens']:.0%} of the texts are cut as in training"))
    if document.get("vllm"):
        rows.append(("vLLM", document["vllm"]))
    return [*rows, ("note", document["limits"])]
