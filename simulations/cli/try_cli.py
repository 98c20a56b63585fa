"""`yoriai federation try`: a federation on this machine, from nothing to an adapter at every site, and away again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from yoriai.privacy.dp.wording import epsilon_text
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.simulations.deployment.trial import Trial


def try_federation(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make it; a new or an empty folder.")],
    sites: Annotated[int, typer.Option("--sites", min=2, max=8, help="Sites, each of about 1.5 GB.")] = 3,
    base: Annotated[str, typer.Option("--base", help="Another base model: packaged, a folder, or a .gguf file.")] = "",
) -> None:
    """Make a consortium, a server and sites on this machine, run a small job, and take the processes down again.

    Real nginx, TLS, daemons, ledgers and masks, with the shipped work orders; some minutes. The folders stay.
    """
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.simulations.deployment.trial import try_federation as tried

    with quiet_libraries():
        found = tried(folder.resolve(), sites, say, base=base)
    _print(found)


def _print(found: "Trial") -> None:
    console = Console(highlight=False)
    table = Table(
        "site", "trained on", "rounds", "epsilon spent", "right before", "right after", box=None, pad_edge=False
    )
    for site in found.sites:
        spent = f"{epsilon_text(site.epsilon)} of {site.budget:g}"
        of = f" of {site.tested}"
        table.add_row(site.name, str(site.records), str(site.rounds), spent, f"{site.base}{of}", f"{site.trained}{of}")
    console.print(table)
    seconds = sum(found.seconds.values())
    mb = (found.bytes_up + found.bytes_down) / 1e6
    say(f"{seconds:.0f} s in all; {mb:.2f} MB of messages a site; no process is left, the folders stay")
    first = found.sites[0]
    say("look at it:")
    say(f"  yoriai job status --server {found.server}")
    say(f"  yoriai site jobs {found.folder / first.name}")
    say(f"  yoriai site budget {found.folder / first.name}")
    say(f'  python -c \'import yoriai; print(yoriai.load("{first.folder}").predict(["replace worn bearing"]))\'')
    say(f"done with it: rm -r {found.folder}")
