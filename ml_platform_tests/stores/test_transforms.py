"""What a declaration names is found when it is read, and imported when it runs."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.model_spec import Transform
from ml_platform.core.source_code import source_digest, top_level_names
from ml_platform.stores.transforms import TransformError, bind

NOW = datetime(2020, 1, 1, tzinfo=UTC)
SOURCE = (
    "imported = True\n\n\ndef same(frame, *, start, end):\n    return frame\n\n\n"
    "def wrong(frame, *, start, end):\n    return 1\n\n\nglobals()['late'] = same\n"
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "transforms_of_a_test.py").write_text(SOURCE)
    yield "transforms_of_a_test"
    sys.modules.pop("transforms_of_a_test", None)
    source_digest.cache_clear()
    top_level_names.cache_clear()


def declared(python: str) -> Transform:
    return Transform(python=python, inputs=("gauge",))


def test_a_function_is_imported_when_it_is_called(module: str, tmp_path: Path) -> None:
    bound = bind(declared(f"{module}:same"), tmp_path)
    assert module not in sys.modules
    frame = pl.DataFrame({"level_cm": [1]})
    assert bound({"gauge": frame}, NOW, NOW).equals(frame)


def test_a_function_that_importing_makes_is_found(module: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"level_cm": [1]})
    assert bind(declared(f"{module}:late"), tmp_path)({"gauge": frame}, NOW, NOW).equals(frame)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{module}:absent", "has no function 'absent'; it has: late, same, wrong"),
        ("{module}_too:same", "No module named 'transforms_of_a_test_too'"),
    ],
)
def test_what_is_not_there_is_told_when_it_is_declared(module: str, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(TransformError, match=said):
        bind(declared(name.format(module=module)), tmp_path)


def test_what_is_no_frame_is_told_when_it_is_computed(module: str, tmp_path: Path) -> None:
    with pytest.raises(TransformError, match="must return a polars DataFrame, not int"):
        bind(declared(f"{module}:wrong"), tmp_path)({"gauge": pl.DataFrame()}, NOW, NOW)
