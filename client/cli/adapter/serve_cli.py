"""`site serve`: the version in use behind an endpoint of OpenAI's protocol."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from yoriai.errors import ConfigError
from yoriai.terminal import say

if TYPE_CHECKING:
    from yoriai.client.folder.site_folder import SiteFolder


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("serve")(serve)


def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    channel: Annotated[
        Literal["staging", "production"], typer.Option("--channel", help="staging or production.")
    ] = "production",
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="A delivered or trained folder, in place of a channel's version.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port that it listens on.")] = 8011,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
) -> None:
    """Answer OpenAI's clients on this machine with the version in use, until it is stopped.

    A version that `site pull` or `site rollback` brings into use answers from then on; requests that were begun end on
    the one before. Clients show the key in serve.key_file of site.toml, which the first start makes.
    """
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.system.log import EventLog, take_over_libraries

    site = SiteFolder(folder.resolve())
    config = site.config()
    check_writer(site)
    place = _place(site, channel, adapter)
    take_own_cache(site)
    from yoriai.client.base.assets import cache_dir
    from yoriai.client.routing.opening import Routes
    from yoriai.client.serving.api_key import api_key
    from yoriai.client.serving.running import listening, run
    from yoriai.client.serving.version import Opener

    settings, route = config.serve, config.route
    routes = None if route.mode == "never" else Routes(route, site.path)  # What it lacks is said before anything runs.
    opened = listening(settings.address, port, allow_network=settings.allow_network)
    key, is_new = api_key(site.place(settings.key_file))
    if is_new:
        say(f"wrote {site.place(settings.key_file)}: the key that clients show")
    log = EventLog(sys.stderr, as_json=log_json)
    take_over_libraries(log)
    model = channel if adapter is None else "adapter"
    run(
        place,
        Opener(config.base.model, model, settings, cache_dir() / "serving"),
        opened,
        model=model,
        key=key,
        settings=settings,
        log=log,
        routes=routes,
    )


def _place(site: "SiteFolder", channel: str, adapter: Path | None) -> Path:
    """The link or folder whose version answers."""
    from yoriai.client.versions.channel_place import ChannelPlace

    place = ChannelPlace(site.channels, channel).link if adapter is None else adapter.resolve()
    if not place.is_dir():
        raise ConfigError(
            f"there is no version to answer with: {place}",
            remedy=f"yoriai site pull {site.path} FILE --channel {channel}, or name a folder with --adapter",
        )
    return place
