"""The environment that a site's daemon has, whoever starts it: the unit, root, or `site check` in its place.

One cache, SITE/cache, as the unit has it. Caches of whoever starts the daemon are theirs, and not for it to read.
"""

import os
from collections.abc import Mapping, MutableMapping

from yoriai.client.folder.site_folder import SiteFolder

_CACHE = "YORIAI_CACHE"
_OF_OTHERS = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", _CACHE)


def daemon_environment(site: SiteFolder, own: Mapping[str, str]) -> dict[str, str]:
    """What another user's daemon gets of root's environment.

    Args:
        site: with an absolute path.
        own: of this process.
    """
    return {name: value for name, value in own.items() if name not in _OF_OTHERS} | {_CACHE: str(site.cache)}


def take_own_cache(site: SiteFolder, environment: MutableMapping[str, str] = os.environ) -> None:
    """In a process of the daemon's own user: the site's cache, once it is there and no other was named."""
    if site.cache.is_dir():
        environment.setdefault(_CACHE, str(site.cache))
