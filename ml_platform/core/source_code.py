"""The source of a function: its module, and what that imports of the same code base.

Belongs here: which files say what a function does. What is made of that, and when it is made again, does not.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from ml_platform.core.digests import digest

_PLATFORM = "ml_platform"


@cache
def source_digest(module: str) -> str:
    """Hex digest of the source of a module and of every module that it imports, itself or through others.

    Counted are modules of its own package and of the platform. Libraries are not: their versions are pinned, and
    those that trained a model are kept with it. In one process it is always that of the first time, as is the code.

    Args:
        module: its full name; it can be imported.

    Raises:
        SyntaxError: one of them is not Python.
    """
    bases = {module.partition(".")[0], _PLATFORM}
    found: dict[str, bytes] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        if name in found or (path := _file(name)) is None:
            continue
        found[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wanted += [each for each in _imported(found[name], package) if each.partition(".")[0] in bases]
    return digest(*(part for name in sorted(found) for part in (name, found[name])))


@cache
def top_level_names(module: str) -> frozenset[str]:
    """What a module's source defines, assigns or imports outside of any block; nothing if it has no source.

    Raises:
        SyntaxError: it is not Python.
    """
    path = _file(module)
    if path is None:
        return frozenset()
    names: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names.update(alias.asname or alias.name for alias in node.names)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(names)


def _file(name: str) -> Path | None:
    """Where a module's source is; None if the name is none of a module's, or it has no source."""
    spec = _spec(name)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _spec(name: str) -> ModuleSpec | None:
    """What Python knows of a module, without importing more than the packages it is in; None if there is none."""
    package = name.rpartition(".")[0]
    if package and ((parent := _spec(package)) is None or parent.submodule_search_locations is None):
        return None  # a function's name, taken for that of a module in its module
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Names that may be modules', of all that is imported anywhere in a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
