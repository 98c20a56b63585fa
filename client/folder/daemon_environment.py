"""The environment that a site's daemon has, whoever starts it: the unit, root, or `site check` in its place.

One cache, SITE/cache, as the unit has it. Caches of whoever starts the daemon are theirs, and not for it to read.
"""

import os
from collections.abc import Mapping, MutableMapping

from yoriai.client.folder.site_folder import SiteFolder

_OF_OTHERS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")


def _caches(site: SiteFolder) -> dict[str, str]:
    """The one place, for Yoriai and for the libraries that keep something of their own, such as bases of a hub."""
    return dict.fromkeys(("YORIAI_CACHE", "XDG_CACHE_HOME"), str(site.cache))


def daemon_environment(site: SiteFolder, own: Mapping[str, str]) -> dict[str, str]:
    """What another user's daemon gets of root's environment.

    Args:
        site: with an absolute path.
        own: of this process.
    """
    return {name: value for name, value in own.items() if name not in _OF_OTHERS} | _caches(site)


def take_own_cache(site: SiteFolder, environment: MutableMapping[str, str] = os.environ) -> None:
    """In a process of the daemon's own user: the site's cache, once it is there and no other was named."""
    if site.cache.is_dir():
        for name, place in _caches(site).items():
            environment.setdefault(name, place)


def keep_caches_here(site: SiteFolder, environment: MutableMapping[str, str] = os.environ) -> None:
    """In this process, before any library looks for its cache: the site's, whatever was named.

    Args:
        site: with an absolute path.
    """
    for name in _OF_OTHERS:
        environment.pop(name, None)
    environment.update(_caches(site))
