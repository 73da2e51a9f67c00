"""What a person asks of a model in a terminal and is refused, in one line that says why."""

import pytest

from ml_platform_tests.cli.conftest import Run
from ml_platform_tests.small_home import MODEL

REASON = ("--reason", "because")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("promote", MODEL, *REASON), f"promote was refused: {MODEL} version 1 is champion already"),
        (("reject", MODEL, "1", *REASON), "reject was refused: flight_delay version 1 is first champion: only one"),
        (("rollback", MODEL, *REASON), "rollback was refused: flight_delay version 1 is its first champion"),
        (("rollback", MODEL, "--to", "7", *REASON), "rollback was refused: flight_delay has no version 7; it has [1]"),
        (("promote", "flight_delays", *REASON), "no model 'flight_delays' is declared; there are"),
        (("promote", MODEL, "--reason", " "), "promote was refused: a decision on a model needs a reason, not ' '"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_reason(run: Run, asked: tuple[str, ...], message: str) -> None:
    answer = run(*asked)
    assert answer.exit_code == 1
    assert message in str(answer.exception)


def test_a_decision_without_a_reason_is_not_even_asked_for(run: Run) -> None:
    answer = run("rollback", MODEL)
    assert answer.exit_code == 2
    assert "--reason" in answer.output
