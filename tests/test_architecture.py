"""The picture of the rooms and their table are what the code gives, and each room says what it is for."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
REMEDY = "run `python docs/draw_rooms.py`, and look at the picture"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """The script docs/draw_rooms.py, loaded as a module."""
    spec = importlib.util.spec_from_file_location("draw_rooms", ROOT / "docs" / "draw_rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rooms(drawing: ModuleType) -> dict[str, frozenset[str]]:
    """Every room, with those that it imports."""
    found: dict[str, frozenset[str]] = drawing.gather(drawing.read_imports())
    return found


def test_the_committed_picture_is_the_one_that_the_code_gives(
    drawing: ModuleType, rooms: dict[str, frozenset[str]]
) -> None:
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.draw(rooms), REMEDY


def test_the_committed_table_has_every_room_with_its_charter_and_imports(
    drawing: ModuleType, rooms: dict[str, frozenset[str]]
) -> None:
    page = drawing.PAGE.read_text(encoding="utf-8")
    assert all(page.count(mark) == 1 for mark in drawing.MARKS)
    assert page == drawing.with_table(page, drawing.table(rooms)), REMEDY


def test_an_import_more_is_another_picture(drawing: ModuleType, rooms: dict[str, frozenset[str]]) -> None:
    """Server's round reaches into the ledger, which nothing of it implies so far."""
    changed = rooms | {"server.round": rooms["server.round"] | {"privacy.ledger"}}
    assert drawing.draw(changed) != drawing.draw(rooms)
    assert drawing.table(changed) != drawing.table(rooms)


def test_an_arrow_goes_down_and_stands_for_no_chain_of_others(
    drawing: ModuleType, rooms: dict[str, frozenset[str]]
) -> None:
    joined = drawing.join_face(rooms)
    height, drawn = drawing.heights(joined), drawing.drawn_arrows(joined)
    assert drawn
    assert all(height[source] > height[target] for source, target in drawn)
    only_drawn = {room: frozenset(target for source, target in drawn if source == room) for room in joined}
    ground = {drawing.GROUND}
    for room in joined:
        assert drawing.below(room, only_drawn) == drawing.below(room, joined) - ground


def test_a_room_without_a_charter_is_refused(
    drawing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attic").mkdir()
    (tmp_path / "attic" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(drawing, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="has no docstring"):
        drawing.charter("attic")
