"""What an older checkpoint.json means today, and which ones are refused by their version.

    schema 2    before adapters were delivered: rounds without roster and factor digests, no base digest
    schema 3    this one

A checkpoint is read in whatever of these schemas, and written in the newest.
"""

from pathlib import Path
from typing import Any, Final

from yoriai.errors import CheckpointError

SCHEMA: Final = 3
_OLDEST = 2


def migrated(document: Any, path: Path) -> Any:
    """A checkpoint's document as the newest schema has it. What is no document at all is left for its reader to refuse.

    What an older version did not note stays empty: it is not made up.

    Args:
        document: as parsed from JSON.
        path: of the file, for messages.

    Raises:
        CheckpointError: it is of a schema that this version cannot read.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is not int:
        return document
    if schema > SCHEMA:
        remedy = "resume the run with the Yoriai version that wrote it, or a later one"
        raise CheckpointError(
            f"{path} is of a newer version", found=f"schema {schema}", expected=f"at most {SCHEMA}", remedy=remedy
        )
    if schema < _OLDEST:
        remedy = "finish the run with the Yoriai version that began it, or start it again in a new folder"
        raise CheckpointError(
            f"{path} is of too old a version", found=f"schema {schema}", expected=f"at least {_OLDEST}", remedy=remedy
        )
    if schema < SCHEMA:
        return {**document, "schema": SCHEMA, "base_digest": "", "delivered": {}}
    return document
