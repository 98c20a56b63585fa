"""Draw docs/rooms.svg and the table of rooms in docs/architecture.md from the code: `python docs/draw_rooms.py`.

A room is a package or a module directly inside one of the folders; a folder without packages is one room. The face
(`yoriai/`) is two: the commands, which import the folders, and the ground, which everything stands on. Nothing is
drawn by hand: a room's height is the longest chain of imports below it, and its place in a row is below those who
import it. It needs grimp, which comes with import-linter (`pip install -e '.[dev]'`).
"""

import ast
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
PAGE = ROOT / "docs" / "architecture.md"
MARKS = ("<!-- rooms: made by docs/draw_rooms.py -->", "<!-- rooms end -->")
FOLDERS = ("simulations", "client", "server", "strategies", "privacy")
COMMANDS, GROUND = "commands", "ground"

# Columns of the picture: the two sides stand left and right, what both use between them.
COLUMN = {"client": 0, "server": 2}
COLOURS = {
    COMMANDS: "#5f6b7a",
    "simulations": "#8a5fb0",
    "client": "#2f7d4f",
    "server": "#2b6cb0",
    "strategies": "#b0762b",
    "privacy": "#b03a48",
    GROUND: "#5f6b7a",
}
BOX, ROW, GAP, PAD, MARGIN = (132, 34), 68, 16, 14, 20
WIDTHS, LANE = (320, 460, 320), 90  # Of the columns, and of the space between two of them.

Edges = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Box:
    """A room's place in the picture, in pixels; (x, y) is its middle."""

    x: float
    y: float
    width: float

    @property
    def left(self) -> float:
        """The x of its left side."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """The x of its right side."""
        return self.x + self.width / 2


def read_imports() -> Edges:
    """Every module with the modules that it imports, without `yoriai` itself, which offers `simulate` lazily."""
    graph = grimp.build_graph("yoriai", cache_dir=None)
    modules = sorted(graph.modules - {"yoriai"})
    return {name: frozenset(graph.find_modules_directly_imported_by(name) - {"yoriai"}) for name in modules}


def place_of(module: str, modules: Collection[str]) -> str:
    """The room of a module as `folder.room`, `folder`, or the module of the face; "" for a folder's own charter."""
    folder, *inside = module.split(".")[1:]
    if folder not in FOLDERS:
        return f"yoriai.{folder}"
    if not any(other.count(".") > 2 and other.startswith(f"yoriai.{folder}.") for other in modules):
        return folder
    return f"{folder}.{inside[0]}" if inside else ""


def gather(imports: Edges) -> Edges:
    """Room -> rooms that it imports, with every module of the face as a room of its own."""
    found: dict[str, set[str]] = {}
    for module, imported in imports.items():
        if room := place_of(module, imports):
            places = {place_of(other, imports) for other in imported}
            found.setdefault(room, set()).update(places - {room, ""})
    return {room: frozenset(others) for room, others in sorted(found.items())}


def face_part(room: str, rooms: Edges) -> str:
    """Whether a module of the face is one of the commands or of the ground; "" for a room of a folder."""
    if not room.startswith("yoriai."):
        return ""
    return COMMANDS if any(not other.startswith("yoriai.") for other in rooms[room]) else GROUND


def join_face(rooms: Edges) -> Edges:
    """The same with the face in two: the modules that import a folder's rooms, and those that import none."""

    found: dict[str, set[str]] = {}
    for room, others in rooms.items():
        mine = face_part(room, rooms) or room
        found.setdefault(mine, set()).update({face_part(other, rooms) or other for other in others} - {mine})
    return {room: frozenset(others) for room, others in sorted(found.items())}


def below(room: str, rooms: Edges) -> set[str]:
    """All that a room imports, by others too."""
    found: set[str] = set()
    waiting = list(rooms[room])
    while waiting:
        if (other := waiting.pop()) not in found:
            found.add(other)
            waiting.extend(rooms[other])
    return found


def drawn_arrows(rooms: Edges) -> list[tuple[str, str]]:
    """The imports that no chain of others implies, but for those of the ground."""
    return [
        (room, other)
        for room, others in rooms.items()
        for other in sorted(others - {GROUND})
        if not any(other in below(between, rooms) for between in others - {other})
    ]


def folder_of(room: str) -> str:
    """The folder of a room; a room without a folder is its own."""
    return room.partition(".")[0]


def heights(rooms: Edges) -> dict[str, int]:
    """Room -> its row, counted from the ground: above all that it imports, and close below its own folder's rooms."""
    privacy = {room for room in rooms if folder_of(room) == "privacy"}
    found: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in found:
            under = rooms[room] | (privacy if room == "strategies" else frozenset())
            found[room] = max((height(other) + 1 for other in under), default=0)
        return found[room]

    for room in sorted(rooms, key=height, reverse=True):
        above = [found[other] for other in rooms if room in rooms[other] and folder_of(other) == folder_of(room)]
        found[room] = min(above) - 1 if above else found[room]
    return found


def places(rooms: Edges) -> dict[str, Box]:
    """Every room's place: rows by height, in each column's row those first whose importers stand further left."""
    height = heights(rooms)
    top = max(height.values())
    starts = [MARGIN + sum(WIDTHS[:column]) + LANE * column for column in range(3)]
    placed: dict[str, Box] = {}
    for level in range(top, -1, -1):
        for column in range(3):
            middle = starts[column] + WIDTHS[column] / 2
            here = [room for room in rooms if height[room] == level and COLUMN.get(folder_of(room), 1) == column]
            importers = {r: [placed[o].x for o in placed if r in rooms[o] and o != COMMANDS] for r in here}
            here.sort(key=lambda room: sum(importers[room]) / len(importers[room]) if importers[room] else middle)
            span = len(here) * BOX[0] + (len(here) - 1) * GAP
            y = MARGIN + (top - level) * ROW + BOX[1] / 2
            for index, room in enumerate(here):
                x = middle - span / 2 + BOX[0] / 2 + index * (BOX[0] + GAP)
                placed[room] = Box(x, y, WIDTHS[1] if room in (COMMANDS, GROUND) else BOX[0])
    return placed


def arrow(source: Box, target: Box, *, from_the_roof: bool, walled_in: bool) -> str:
    """The path of an arrow: down within a column, else from side to side.

    One `from_the_roof` comes down onto a column's top; one that is `walled_in` by a room beside it leaves below.
    """
    leftwards = target.x < source.x
    start = source.left if leftwards else source.right
    if abs(source.x - target.x) < min(WIDTHS) / 2 + LANE:
        start_y, end_y = source.y + BOX[1] / 2, target.y - BOX[1] / 2 - 6
        middle = (start_y + end_y) / 2
        return f"M{source.x:g} {start_y:g}C{source.x:g} {middle:g} {target.x:g} {middle:g} {target.x:g} {end_y:g}"
    if from_the_roof:
        end_y = target.y - BOX[1] / 2 - 6
        return f"M{start:g} {source.y:g}C{target.x:g} {source.y:g} {target.x:g} {source.y:g} {target.x:g} {end_y:g}"
    end = target.right + 6 if leftwards else target.left - 6
    if walled_in:
        start_y = source.y + BOX[1] / 2
        return f"M{source.x:g} {start_y:g}C{source.x:g} {target.y:g} {source.x:g} {target.y:g} {end:g} {target.y:g}"
    turn = (start + end) / 2
    return f"M{start:g} {source.y:g}C{turn:g} {source.y:g} {turn:g} {target.y:g} {end:g} {target.y:g}"


def panel(folder: str, inside: Iterable[Box]) -> tuple[str, str]:
    """The background of a folder's rooms, and its name in the corner, which goes on top of the arrows."""
    found = list(inside)
    left, right = min(box.left for box in found) - PAD, max(box.right for box in found) + PAD
    top, bottom = min(box.y for box in found) - BOX[1] / 2 - 26, max(box.y for box in found) + BOX[1] / 2 + 10
    colour = COLOURS[folder]
    ground = (
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" rx="10" '
        f'fill="{colour}" fill-opacity="0.07" stroke="{colour}" stroke-opacity="0.35"/>'
    )
    # Twice: a white edge first, so that arrows end at the letters. Not every renderer knows paint-order.
    name = f'<text x="{left + 12:g}" y="{top + 19:g}" class="{{}}">{folder}/</text>'
    return ground, name.format("folder edge") + name.format("folder")


def label(room: str, face: Edges) -> str:
    """What stands in a room's box: its name, or the modules of the face that it stands for."""
    if room not in (COMMANDS, GROUND):
        return room.rpartition(".")[2]
    return " · ".join(name.removeprefix("yoriai.") for name in face if face_part(name, face) == room)


def arrows(rooms: Edges, place: Mapping[str, Box]) -> list[str]:
    """The lines of the picture, each in the colour of the folder that imports, with their heads defined first."""
    lines = [
        f'<marker id="m{colour[1:]}" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        for colour in dict.fromkeys(COLOURS.values())
    ]
    for source, target in drawn_arrows(rooms):
        start, end, colour = place[source], place[target], COLOURS[folder_of(source)]
        top = min(box.y for room, box in place.items() if folder_of(room) == folder_of(target))
        left, right = sorted((start.x, end.x))
        beside = [place[room] for room in rooms if folder_of(room) == folder_of(source) and place[room].y == start.y]
        between = any(left < other.x < right for other in beside)
        path = arrow(start, end, from_the_roof=source == COMMANDS and end.y == top, walled_in=between)
        lines.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#m{colour[1:]})"/>'
        )
    return lines


def box(room: str, place: Box, words: str) -> str:
    """A room's box with its name, or with the modules that it stands for."""
    wide = max(place.width, 8 * len(words) + 20)
    return (
        f'<rect x="{place.x - wide / 2:g}" y="{place.y - BOX[1] / 2:g}" width="{wide:g}" height="{BOX[1]}" rx="6" '
        f'fill="#ffffff" stroke="{COLOURS[folder_of(room)]}" stroke-width="1.6"/>'
        f'<text x="{place.x:g}" y="{place.y + 5:g}" class="in">{words}</text>'
    )


def draw(face: Edges) -> str:
    """The picture, as the text of an SVG file."""
    rooms = join_face(face)
    place = places(rooms)
    width = 2 * MARGIN + sum(WIDTHS) + 2 * LANE
    height = max(where.y for where in place.values()) + BOX[1] / 2 + 50
    panels = [
        panel(folder, (where for room, where in place.items() if folder_of(room) == folder))
        for folder in FOLDERS
        if folder not in rooms
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" role="img">',
        "<title>The rooms of Yoriai and what they import</title>",
        "<style>text{font-family:'DejaVu Sans',Verdana,sans-serif;font-size:15px;fill:#1b1f24}.in{text-anchor:middle}"
        ".folder{font-weight:bold}.edge{stroke:#fff;stroke-width:5px;stroke-linejoin:round}</style>",
        f'<rect width="{width}" height="{height:g}" fill="#ffffff"/>',
        *(ground for ground, _ in panels),
        *arrows(rooms, place),
        *(name for _, name in panels),
        *(box(room, where, label(room, face)) for room, where in place.items()),
        f'<text x="{MARGIN}" y="{height - 16:g}">An arrow: imports. Left out: what a chain of arrows implies, and '
        "the imports of the lowest row, which every room may use.</text>",
    ]
    return "\n".join([*parts, "</svg>", ""])


def charter(room: str) -> str:
    """The first paragraph of a room's docstring, on one line, as a cell of a table.

    Raises:
        ValueError: it has none.
    """
    place = ROOT / room.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    if not text:
        raise ValueError(f"{file} has no docstring, and a room says in its first one what it is for")
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def table(face: Edges) -> str:
    """The rooms from the top down, each with its charter and every folder's room that it imports."""
    rooms = join_face(face)
    height = heights(rooms)
    order = [COMMANDS, *FOLDERS, GROUND]

    def key(room: str) -> tuple[int, int, str]:
        return order.index(face_part(room, face) or folder_of(room)), -height.get(room, 0), room

    lines = ["| room | what it is for | imports, besides the ground |", "|---|---|---|"]
    for room in sorted(face, key=key):
        others = sorted(other for other in face[room] if not other.startswith("yoriai."))
        place = room.replace(".", "/")
        name = place if (ROOT / place).is_dir() else f"{place}.py"
        lines.append(f"| `{name}` | {charter(room)} | {', '.join(other.replace('.', '/') for other in others)} |")
    return "\n".join(lines)


def with_table(page: str, made: str) -> str:
    """The page with the table between its two marks."""
    between = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    return between.sub(lambda _: f"{MARKS[0]}\n\n{made}\n\n{MARKS[1]}", page)


def main() -> None:
    """Write picture and table."""
    face = gather(read_imports())
    PICTURE.write_text(draw(face), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(face)), encoding="utf-8")


if __name__ == "__main__":
    main()
