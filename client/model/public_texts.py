"""Public texts, of which conditioning takes its measure: Yoriai's own, those the base writes, and the operator's.

Nothing here comes from a site. Yoriai's own are short general texts in fifteen languages, written for this project and
given to the public domain (CC0). What the base writes after the beginning of a template is in the form of the task.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import torch

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.kept import Kept
from yoriai.client.records.encoding import DEFAULT_TEMPLATES
from yoriai.config import PublicSection, TaskSection
from yoriai.errors import ConfigError

_AT_ONCE = 100
_NEW_TOKENS = 32
_KEPT: Final = Kept[tuple[str, ...]](
    "public-texts",
    read=lambda data: tuple(json.loads(data)),
    write=lambda texts: json.dumps(texts, ensure_ascii=False, indent=0).encode(),
)

Progress = Callable[[int, int], None]


@cache
def shipped_texts() -> tuple[str, ...]:
    """The texts that come with Yoriai."""
    return tuple(files(__package__).joinpath("public_texts.txt").read_text(encoding="utf-8").splitlines())


def public_texts(
    base: BaseModel, task: TaskSection, public: PublicSection, progress: Progress | None = None
) -> tuple[str, ...]:
    """All public texts of a job: shipped, written by the base (kept in the cache), and the operator's own.

    Raises:
        ConfigError: the operator's file cannot be read, or holds no text.
    """
    own = () if public.texts is None else own_texts(Path(public.texts))
    template = task.template or DEFAULT_TEMPLATES.get(task.kind, "{prompt}")
    return shipped_texts() + _kept(base, template.partition("{prompt}")[0], public, progress) + own


def own_texts(path: Path) -> tuple[str, ...]:
    """The lines of a file that hold anything. Raises ConfigError if it cannot be read, or none does."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ConfigError(
            f"public.texts: {path} cannot be read", found=reason or type(error).__name__, remedy="correct the path"
        ) from None
    if not (texts := tuple(line.strip() for line in lines if line.strip())):
        raise ConfigError(f"public.texts: {path} holds no text", expected="one text a line")
    return texts


def text_digest(text: str) -> str:
    """Sixteen hexadecimal digits by which a text is found again, however its spaces and capitals are written."""
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()[:16]


def found_public(prompts: Iterable[str], public: PublicSection) -> str:
    """A line for a site's own eyes if texts that the job calls public are among its records; empty if none is."""
    known = frozenset(public.digests)
    count = sum(text_digest(prompt) in known for prompt in prompts) if known else 0
    return f"{count} of the records are among the texts that the job calls public (public.texts)" if count else ""


def _kept(base: BaseModel, beginning: str, public: PublicSection, progress: Progress | None) -> tuple[str, ...]:
    """What the base writes, from the cache where it was written before."""
    if not public.written:
        return ()
    asked = [base.digest, beginning, public.written, public.seed, _AT_ONCE, _NEW_TOKENS]
    return _KEPT.made(asked, lambda: written_texts(base, beginning, public.written, public.seed, progress))


@torch.no_grad()
def written_texts(
    base: BaseModel, beginning: str, count: int, seed: int, progress: Progress | None = None
) -> tuple[str, ...]:
    """What the base writes after the beginning of a template, sampled at temperature 1: the first line of each.

    Equal on one machine for one seed. Where a text is empty, it is left out.
    """
    ids = base.tokenizer.encode(beginning, add_special_tokens=False) or [base.start_token]
    before = torch.tensor([ids], device=base.device)
    texts: list[str] = []
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for done in range(0, count, _AT_ONCE):
            if progress is not None:
                progress(done, count)
            rows = before.expand(min(_AT_ONCE, count - done), -1)
            generated = base.model.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=_NEW_TOKENS,
                pad_token_id=base.tokenizer.pad_token_id,
            )
            for row in generated[:, len(ids) :]:
                lines = base.tokenizer.decode(row, skip_special_tokens=True).strip().splitlines()
                texts += [lines[0].strip()] if lines and lines[0].strip() else []
    return tuple(texts)
