"""The rooms of the package and what each may know: a room imports only from rooms below it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "edp_lightning"

FLOORS = (
    ("errors", "option_bounds", "networks", "diffusion"),
    ("runs",),
    ("environments",),
    ("collect",),
    ("data", "acceleration"),
    ("policies",),
    ("algorithms",),
    ("evaluation",),
    ("callbacks", "figures", "experiments", "export"),
    ("command_line", "cli", "__main__"),
)
"""From the ground up; see CONTRIBUTING.md."""

FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module == "edp_lightning":
        return [f"edp_lightning.{alias.name}" for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def imports() -> Iterator[tuple[str, str, str]]:
    """Yield (room, where, imported room) for every import of the package by itself, those inside functions too."""
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "callbacks").glob("*.py")]):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [
                    f"{node.module}.{alias.name}" if node.module == "edp_lightning" else node.module for alias in node.names
                ]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                names = module.split(".")
                if names[0] == "edp_lightning" and len(names) > 1 and names[1] != "__version__" and parts != ("__init__",):
                    yield parts[0], f"{'/'.join(parts)}.py:{node.lineno}", names[1]


def test_every_room_has_a_floor():
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert rooms - {"__init__"} <= set(FLOOR_OF)


def test_contributing_shows_the_rooms_on_their_floors():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    (picture,) = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    storeys = re.split(r"^.*[┌├└].*$", picture, flags=re.MULTILINE)[1:-1]  # from the roof down
    shown = {
        name: len(storeys) - number for number, storey in enumerate(storeys) for name in re.findall(r"\w+(?=/|\.py)", storey)
    }
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert rooms <= set(shown)
    floors = sorted({(FLOOR_OF[room], shown[room]) for room in rooms})
    assert [storey for _, storey in floors] == list(range(1, len(storeys) + 1))


def test_no_room_imports_from_a_higher_floor():
    wrong = [f"{where} imports {other}" for room, where, other in imports() if FLOOR_OF[other] > FLOOR_OF[room]]
    assert wrong == []


def test_rooms_import_each_other_in_no_circle():
    knows: dict[str, set[str]] = {}
    for room, _, other in imports():
        if room != other:
            knows.setdefault(room, set()).add(other)
    while free := {room for room in set(knows) if not knows[room] & set(knows)}:
        for room in free:
            del knows[room]
    assert knows == {}


def test_the_ground_floor_knows_neither_lightning_nor_files_nor_environments():
    heavy = {"lightning", "gymnasium", "minari", "h5py", "mujoco"}
    for room in ("networks", "diffusion"):
        for path in (PACKAGE / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [getattr(node, "module", None) or ""]
                )
                assert not heavy & {name.split(".")[0] for name in names}, path
