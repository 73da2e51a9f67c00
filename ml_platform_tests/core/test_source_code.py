"""What is made is made again when the code that makes it changes, wherever that code is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.core.source_code import source_digest, top_level_names

FILES = {
    "__init__.py": "",
    "transforms.py": (
        "import json\nfrom project_of_a_test import near\nfrom project_of_a_test.near import twice\n\n\n"
        "def rows():\n    from .inner import late\n    return late, twice, near, json\n"
    ),
    "near.py": "from ml_platform.core.durations import parse_duration\n\n\ndef twice(x):\n    return 2 * x\n",
    "inner/__init__.py": "from .deep import late\n",
    "inner/deep.py": "from .. import near\nlate = near\n",
    "unrelated.py": "x = 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose module imports others of it in every way there is, and in a circle."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "project_of_a_test"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]
    source_digest.cache_clear()
    top_level_names.cache_clear()


def digest_anew() -> str:
    source_digest.cache_clear()
    return source_digest("project_of_a_test.transforms")


@pytest.mark.parametrize("changed", ["transforms.py", "near.py", "inner/__init__.py", "inner/deep.py"])
def test_a_change_of_what_is_imported_however_far_away_is_one_of_the_code(project: Path, changed: str) -> None:
    before = digest_anew()
    assert digest_anew() == before
    (project / changed).write_text(FILES[changed] + "# changed\n")
    assert digest_anew() != before


def test_what_is_not_imported_is_none_of_it(project: Path) -> None:
    before = digest_anew()
    (project / "unrelated.py").write_text("x = 2\n")
    assert digest_anew() == before


def test_the_platforms_own_code_counts(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_anew()
    durations = tmp_path / "durations.py"
    durations.write_text("# other\n")
    import ml_platform.core.durations

    monkeypatch.setattr(ml_platform.core.durations.__spec__, "origin", str(durations))
    assert digest_anew() != before


def test_sources_are_read_without_importing_them(project: Path) -> None:
    (project / "transforms.py").write_text(FILES["transforms.py"] + "raise RuntimeError('it was imported')\n")
    assert digest_anew()


def test_names_are_those_at_the_top_of_a_module(project: Path) -> None:
    (project / "named.py").write_text(
        "import json as text\nfrom .near import twice\nlimit = 3\n\n\nclass Kind:\n    inner = 1\n\n\n"
        "def rows(frame):\n    local = frame\n    return local\n\n\nglobals()['late'] = rows\n"
    )
    assert top_level_names("project_of_a_test.named") == {"text", "twice", "limit", "Kind", "rows"}
    assert top_level_names("project_of_a_test.absent") == top_level_names("absent_project.named") == frozenset()
