"""The source of a function: its module, and what that imports of the same code base.

Belongs here: which files say what a function does. What is made of that, and when it is made again, does not.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ml_platform.core.content import digest

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


def _file(name: str) -> Path | None:
    """Where a module's source is; None if the name is none of a module's, or it has no source."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None  # a function's name, taken for that of a module in its module
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


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
