"""`yoriai site ask`: one text, the answers of base and adapted model side by side, and where the adapter is from."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.cli.adapter.adapter_option import Adapter
from yoriai.terminal import say_while

_console = Console()
_SHOWN = 5


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("ask")(ask)


def ask(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is asked.", show_default=False)],
    adapter: Adapter = None,
    max_new_tokens: Annotated[int, typer.Option("--tokens", min=1, help="Of an answer, at most.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask the base and the adapted model the same, on this machine; nothing is sent, and the text is kept nowhere."""
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.versions.adapter_choice import chosen_adapter
    from yoriai.client.versions.version_source import source_of

    site = SiteFolder(folder.resolve())
    config = site.config()
    take_own_cache(site)
    chosen = chosen_adapter(site.channels, site.adapters, adapter)
    with say_while("loading the base model"):
        from yoriai.client.session.loading import load
        from yoriai.client.session.side_by_side import ask as answer

        found = answer(load(chosen, config.base.model, device="cpu"), text, max_new_tokens=max_new_tokens)
    source = source_of(chosen)
    if as_json:
        labels = {label: {"base": base, "adapted": own} for label, (base, own) in found.probabilities.items()}
        answers = {"base": found.base, "adapted": found.adapted, "probabilities": labels}
        typer.echo(json.dumps({"schema": 1, **answers, "source": source}, ensure_ascii=False, indent=1))
        return
    table = Table("", "base", "adapted", box=None, pad_edge=False)
    table.add_row(Text("answer", style="bold"), Text(found.base), Text(found.adapted))
    for label, (base, own) in list(found.probabilities.items())[:_SHOWN]:
        table.add_row(Text(label), f"{base:.1%}", f"{own:.1%}")
    _console.print(table)
    _console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in source.items():
        facts.add_row(Text(name, style="bold"), Text(str(value)))
    _console.print(facts)
