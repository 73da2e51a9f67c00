"""Where processes are born that live in homes of the meters."""

from collections.abc import Iterator

import pytest

from ml_platform_tests.automation.nursery import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all tests of a module: what it has imported serves them all."""
    made = Nursery()
    yield made
    made.close()
