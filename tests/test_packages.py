"""The library's packages: each imports only from those before it, so that nothing goes in a circle."""

import ast
from pathlib import Path

from conftest import REPOSITORY

TOOLKIT = REPOSITORY / "scripts/toolkit"
ORDER = (
    "interpreter console json_text files outputs options schema pages records evaluation answers model reading_base "
    "extraction training serving latency reports samples cloud project"
).split()


def modules() -> list[Path]:
    return sorted(path for path in TOOLKIT.rglob("*.py") if path != TOOLKIT / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(TOOLKIT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Packages of the library that a module imports anywhere, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "toolkit":
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toolkit."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {name.name.split(".")[1] for name in node.names if name.name.startswith("toolkit.")}
    return names


def test_every_package_has_its_place_in_the_order():
    assert {package_of(path) for path in modules()} == set(ORDER)


def test_a_module_imports_only_from_packages_before_its_own():
    later = {}
    for path in modules():
        place = ORDER.index(package_of(path))
        if names := [name for name in imported(path) if ORDER.index(name) > place]:
            later[path.relative_to(TOOLKIT).as_posix()] = names
    assert later == {}


def test_the_library_knows_no_command_line():
    users = [path for path in modules() if "argparse" in path.read_text(encoding="utf-8")]
    names = {path.relative_to(TOOLKIT).as_posix() for path in users}
    assert names == {"console.py", "options.py"}
