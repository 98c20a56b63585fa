"""What a site sends, field by field: what counts its records or right answers is noised, signed and charged."""

import ast
import inspect
from pathlib import Path

from yoriai import wire
from yoriai.client.site import site

# A site names itself, run, round or slot of a window, and stage; it says no, with a reason; it sends an update or a
# protocol's bytes; it says which versions it was sent and uses, and hands over counts that were noised and charged
# (test_judging.py), or says why not; and it commits to its ledger by a hash, over a chain that begins with random bits,
# and a signature.
SENT = {
    "Acceptance": {"run_id", "site", "ledger_head"},
    "Refusal": {"run_id", "site", "reason", "unknown_job", "unknown_window", "waiting", "used_up"},
    "PlainUpdate": {"run_id", "site", "round_index", "payload", "ledger_head"},
    "Receipt": {"run_id", "site", "adapter_digest", "ledger_head"},
    "ChannelState": {"run_id", "site", "channel", "delivered", "in_use", "counts", "withheld", "ledger_head"},
    "SecureReply": {"run_id", "site", "window", "slot", "stage", "payload", "ledger_head"},
}
EXPECTED_BY_SITES = {"Instruction", "JobOffer", "TrainRequest", "WindowRequest", "SecureStage", "Delivery"}
EXPECTED_BY_SITES |= {"VersionFile", "ChannelQuestion"}
FILES = {"PreparedJobFile"}  # In the same envelope, and never sent.


def test_one_message_alone_has_a_field_for_counts() -> None:
    answers = {kind.__name__: set(kind.model_fields) for kind in wire.Reply.__args__}  # type: ignore[attr-defined]
    assert answers == SENT


def test_there_is_no_other_kind_of_message() -> None:
    kinds = {kind.__name__ for kind in wire._KINDS.values()}
    assert kinds == set(SENT) | EXPECTED_BY_SITES | FILES


def test_what_answers_holds_no_code_that_evaluates() -> None:
    """What of the test records may leave is counted behind the ledger, by `judging.py`, once the reply is out."""
    tree = ast.parse(Path(inspect.getfile(site)).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module for module in imported if module and module.endswith((".evaluate", ".measure"))}


def test_a_site_never_looks_at_its_test_records() -> None:
    tree = ast.parse(Path(inspect.getfile(site)).read_text(encoding="utf-8"))
    looked_at = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_records"
    }
    assert looked_at == {"train"}
