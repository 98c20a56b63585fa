"""A version comes into use at a site: its verified bundle is stored for the base here, and the link swapped."""

from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.adapter_place import CERTIFICATE, STATEMENT, VERSION
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.client.versions.version_bundle import Bundle
from yoriai.errors import PolicyError
from yoriai.privacy.documents.adapter_facts import facts_of_version
from yoriai.privacy.documents.model_card import CARD_FILE, card_text
from yoriai.privacy.statements.version_statement import JOB_FILE

PROMOTION, LINEAGE = "promotion", "lineage"


def pull(bundle: Bundle, place: ChannelPlace, session: ModelSession, *, may_be_older: bool = False) -> bool:
    """Store a version and have its channel's link lead to it; whether it was not here before.

    Args:
        session: holds the site's base; its lock is taken.
        may_be_older: the operator's word that it may be older than one that the site has taken, which is then
            forgotten: what follows it need only be newer than this one.

    Raises:
        PolicyError: it is of another base, older than one that the site has taken, or another one has its number here.
        AdapterError: it does not fit the base.
        StorageError: it cannot be written; what was in use still is.
    """
    number = bundle.promotion.number
    bundle.check_base(session.base.digest)
    with place.locked():
        if not may_be_older:
            place.check_newer(number)
        is_new = not _is_here(place, bundle, may_replace=may_be_older)
        if is_new:
            with session.lock, place.draft(number) as folder:
                session.model(bundle.job).check(bundle.adapter)
                save_adapter(session, bundle.job, bundle.adapter, folder)
                for name, text in _texts(bundle).items():
                    (folder / name).write_text(text, encoding="utf-8")
                (folder / VERSION).write_bytes(bundle.file.payload)
        place.use(number, forget_later=may_be_older)
    return is_new


def _is_here(place: ChannelPlace, bundle: Bundle, *, may_replace: bool) -> bool:
    """Whether this very version lies here. A server that was restored from its backup gives a number a second time.

    Args:
        may_replace: whether another one with its number, which is not in use, makes room.

    Raises:
        PolicyError: another one has its number, and stays.
    """
    number = bundle.promotion.number
    if not place.holds(number) or place.has(number, PROMOTION, bundle.file.promotion):
        return place.holds(number)
    if not may_replace or place.current() == number:
        raise PolicyError(
            f"another version lies here under number {number}, and the coordinator gives a number once",
            remedy="have the version promoted once more; after a server was restored from its backup, site rollback, "
            "and then site pull FILE --older",
        )
    place.remove(number)
    return False


def _texts(bundle: Bundle) -> dict[str, str]:
    """Job and model card, and what shows later whose word the version is, and what it goes back to: the oldest last."""
    file = bundle.file
    older = {f"{LINEAGE}.{number}": signed for number, signed in enumerate(file.lineage, start=1)}
    return {
        JOB_FILE: bundle.job.model_dump_json(by_alias=True),
        CARD_FILE: card_text(facts_of_version(bundle.version, bundle.job), ()),
        STATEMENT: file.statement,
        PROMOTION: file.promotion,
        CERTIFICATE: file.certificate,
        **older,
    }
