"""The commands of a site's versions: `site pull` takes one into use, `site rollback` goes back to the one before."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from yoriai.errors import ConfigError
from yoriai.terminal import say, say_while

if TYPE_CHECKING:
    from yoriai.client.versions.channel_place import ChannelPlace

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)]
_Channel = Annotated[Literal["staging", "production"], typer.Option("--channel", help="staging or production.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LARGEST_MIB = 2048


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("pull")(pull)
    site.command("rollback")(rollback)


def pull(
    folder: _Folder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="What `server export-version` wrote; else what was sent.")
    ] = None,
    channel: _Channel = "production",
    older: Annotated[
        bool, typer.Option("--older", help="FILE may be older than what was taken, which is then forgotten.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Take a version into use, once signature, lineage and base are verified. The one before it is kept.

    Without FILE it is the one that the server has sent, which is told that it is in use when it asks next.
    """
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.versions.channel_place import ChannelPlace
    from yoriai.system.files import read_carried

    site = SiteFolder(folder.resolve())
    config = site.config()
    check_writer(site)
    place = ChannelPlace(site.channels, channel)
    data = read_carried(file or _delivered(place, channel), "the version", at_most_mib=_LARGEST_MIB)
    trust = site.trusted.trust(datetime.now(UTC))
    take_own_cache(site)
    with say_while("verifying the version, and loading the base model"):
        from yoriai.client.base.base_model import choose_device, load_base
        from yoriai.client.base.quiet import quiet_libraries
        from yoriai.client.session.model_session import ModelSession
        from yoriai.client.versions.pulling import pull as take
        from yoriai.client.versions.version_bundle import read_bundle
        from yoriai.config import SpeedSection

        bundle = read_bundle(data, trust, channel)
        if not older:
            place.check_newer(bundle.promotion.number)  # Before the base is loaded, which takes longest.
        with quiet_libraries():
            session = ModelSession(load_base(config.base.model, device=choose_device("cpu")), SpeedSection())
        is_new = take(bundle, place, session, may_be_older=older)
    version = bundle.version
    if as_json:
        found = {"channel": channel, "number": bundle.promotion.number, "run": version.run_id}
        found |= {"adapter": version.adapter_digest, "new": is_new, "forced": bundle.promotion.forced}
        typer.echo(json.dumps({"schema": 1, **found, "folder": str(place.link)}, indent=1))
        return
    if bundle.promotion.forced:
        say("note: the coordinator put this version there although its job's gate refused it")
    say(f"{place.link} leads to {version.run_id} ({version.adapter_digest[:12]}){'' if is_new else ', which was here'}")


def _delivered(place: "ChannelPlace", channel: str) -> Path:
    """The file that the daemon was sent last."""
    number = place.delivered()
    if number is None:
        raise ConfigError(
            f"the server has sent no version of {channel} to this site",
            expected="one that it promoted while this site's daemon and node ran, or FILE",
            remedy="yoriai site status; or have it exported: yoriai server export-version",
        )
    return place.delivered_file(number)


def rollback(folder: _Folder, channel: _Channel = "production", as_json: _Json = False) -> None:
    """Go back to the version that was in use before. A version that was pulled since stays here, out of use."""
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.versions.channel_place import ChannelPlace

    site = SiteFolder(folder.resolve())
    site.config()
    check_writer(site)
    place = ChannelPlace(site.channels, channel)
    with place.locked():
        number = place.roll_back()
    if as_json:
        typer.echo(json.dumps({"schema": 1, "channel": channel, "number": number, "folder": str(place.link)}, indent=1))
        return
    say(f"{place.link} leads to number {number} again")
