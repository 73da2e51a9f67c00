"""The story says what was scored, why there were trainings and what became of them, and whether every row is there."""

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from ml_platform.core import plots
from ml_platform.core.bootstrap import Figure
from ml_platform.core.story import Accounts, Story, Training

APRIL, MAY, JUNE = (datetime(2013, month, 1, tzinfo=UTC) for month in (4, 5, 6))
HABITS = ("automated", "frozen", "monthly")
STORY = Story(
    model="late",
    first_champion=APRIL,
    until=JUNE,
    trainings=[
        Training(APRIL, "no champion", 1, True, "first_champion", "every gate holds"),
        Training(MAY, "stale", 2, True, "replaces_stale_champion", "not worse"),
        Training(datetime(2013, 5, 20, tzinfo=UTC), "drift persists, stale", 3, False, "rejected", "a | b"),
        Training(datetime(2013, 5, 28, tzinfo=UTC), "", None, False, "", "no decision was reached"),
    ],
    months=pl.DataFrame(
        [
            {"month": month, "habit": habit, "rows": 100, "auc": 0.7 + place / 100, "log_loss": 0.5}
            for month in ("2013-04", "2013-05")
            for place, habit in enumerate(HABITS)
        ]
    ),
    scored={"2013-04": 1000, "2013-05": 1200},
    alarms={"2013-05": 3},
    falls={"2013-05": 7},
    differences={("auc", "frozen"): Figure(value=0.01, low=0.005, high=0.02)},
    accounts=Accounts(
        APRIL, JUNE, due=2200, scored=2200, doubly_scored=0, labelled=2150, quarantined=3, in_quarantine=9
    ),
)


def test_the_months_say_what_was_scored_why_there_were_trainings_and_what_became_of_them() -> None:
    text = STORY.to_markdown("images/late.png")
    rows = [line for line in text.splitlines() if line.startswith("| 2013-0")]
    assert rows[0].startswith("| 2013-04 | 1,000 | 1 (no champion) | 1 | 0 | 0 | 0 | 0.7000 / 0.7100 / 0.7200 |")
    assert rows[1].startswith("| 2013-05 | 1,200 | 3 (stale; drift persists, stale; ) | 1 | 2 | 3 | 7 |")
    assert "3 retrainings, 2 promotions, 3 days of drift alarm" in text
    assert "7 on which performance had fallen" in text
    assert "auc 0.01 [0.005, 0.02] against frozen" in text
    assert "![late by month](images/late.png)" in text


def test_a_reason_cannot_break_the_table_and_a_training_without_a_decision_failed() -> None:
    text = STORY.to_markdown("late.png")
    assert "| refused (rejected) | a \\| b |" in text
    assert "| - | failed | no decision was reached |" in text


def test_accounts_balance_only_if_each_thing_due_was_scored_once() -> None:
    assert STORY.accounts.balanced
    assert not replace(STORY.accounts, scored=2199).balanced
    assert not replace(STORY.accounts, doubly_scored=1).balanced
    assert str(STORY.accounts).startswith("Balanced: of 2,203 things due after 2013-04-01 00:00")
    assert "3 are known from rows in quarantine alone" in str(STORY.accounts)
    assert str(replace(STORY.accounts, scored=2199)).startswith("**Not balanced**: of 2,203 things")


def test_the_picture_is_a_png_of_both_metrics() -> None:
    assert plots.story(STORY).startswith(b"\x89PNG")
