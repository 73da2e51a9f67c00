"""What steps need is declared in Kubernetes' own quantities, and a mistake is told when it is made."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.compute import Compute, DatasetCompute, StagesCompute, Toleration, quantity
from ml_platform_tests.core.learning_examples import spec


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("2Gi", "2147483648"),
        ("1.5M", "1500000"),
        ("1e3", "1000"),
        ("1E", "1e18"),
        (".5", "0.5"),
    ],
)
def test_a_quantity_is_the_number_it_stands_for(text: str, number: str) -> None:
    assert quantity(text) == Decimal(number)


@given(st.integers(1, 10**6), st.sampled_from(["", "k", "Mi", "G", "Ti"]))
def test_quantities_are_ordered_as_their_numbers(number: int, suffix: str) -> None:
    assert quantity(f"{number}{suffix}") < quantity(f"{number + 1}{suffix}")


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"memory": "512m"}, r"memory '512m' is 0\.512 bytes: write it as 512Mi or 4Gi"),
        ({"memory": "4 Gi"}, "'4 Gi' is no quantity of Kubernetes"),
        ({"memory": "4GB"}, "'4GB' is no quantity"),
        ({"cpu": "0"}, "cpu '0' must be more than 0"),
        ({"cpu": "0.0001"}, "in thousandths of a processor"),
        ({"cpu": True}, "string"),
        ({"cpu": "2", "cpu_limit": "1500m"}, r"cpu_limit \(1500m\) is less than cpu \(2\)"),
        ({"memory": "2Gi", "memory_limit": "2G"}, r"memory_limit \(2G\) is less than memory \(2Gi\)"),
        ({"gpu": -1}, "greater than or equal to 0"),
        ({"gpu": 1, "gpu_kind": "a100"}, "gpu_kind 'a100' must be vendor/device"),
        ({"node_selector": {"pool": "no spaces"}}, "pool: no spaces is no label of a node"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "NoSchedule"),
        ({"disk": "1Gi"}, "disk"),
    ],
)
def test_what_cannot_be_is_told_with_its_value(declared: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Compute(**declared)


def test_numbers_of_yaml_are_quantities() -> None:
    assert Compute(cpu=2, memory="4Gi") == Compute(cpu="2", memory="4Gi")


def test_a_stage_says_only_what_it_needs_otherwise() -> None:
    declared = StagesCompute(
        cpu="500m",
        memory="1Gi",
        memory_limit="2Gi",
        node_selector={"pool": "small"},
        stages={"tuned_model": {"memory": "8Gi", "gpu": 2, "tolerations": [{"key": "gpu"}]}},
    )
    assert declared.of("labels") == Compute(
        cpu="500m", memory="1Gi", memory_limit="2Gi", node_selector={"pool": "small"}
    )
    # The limit was that of a gibibyte's request.
    assert declared.of("tuned_model") == Compute(
        cpu="500m", memory="8Gi", gpu=2, node_selector={"pool": "small"}, tolerations=(Toleration(key="gpu"),)
    )


def test_a_view_says_only_what_it_needs_otherwise() -> None:
    declared = DatasetCompute(features=Compute(cpu="1", memory="1Gi"), views={"wide": Compute(memory="4Gi")})
    assert declared.of_view("wide") == Compute(cpu="1", memory="4Gi")
    assert declared.of_view("narrow") == Compute(cpu="1", memory="1Gi")


def test_a_stage_that_no_model_has_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"speaks of \['fit'\]; the stages are labels, training_set, tuned_model"):
        spec(resources={"stages": {"fit": {"cpu": "1"}}})


def test_a_stage_that_contradicts_the_model_is_told_when_it_is_declared() -> None:
    with pytest.raises(ValueError, match=r"memory_limit \(1Gi\) is less than memory \(2Gi\)"):
        spec(resources={"memory": "2Gi", "stages": {"tuned_model": {"memory_limit": "1Gi"}}})
