"""What `replay --drive` tells of a quarter made before: figures that the tables bear out, and what is missing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import deltalake
import polars as pl
import pytest

from ml_platform.settings import load
from ml_platform_tests.loop.homes import Home

pytestmark = pytest.mark.slow

MODEL = "flight_delay"
LEARNED_UNTIL = pl.datetime(2013, 3, 17, time_zone="UTC")


def told(home: Home, story: Path) -> subprocess.CompletedProcess[str]:
    """What the command says of a home where the days up to 15 April have landed already."""
    command = [str(Path(sys.executable).with_name("ml-platform")), "replay", "--until", "2013-04-15", "--drive"]
    env = {**os.environ, **home.environment}
    return subprocess.run([*command, "--story", str(story)], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def home(finished_home: Path, tmp_path: Path) -> Home:
    return Home(load({"ML_PLATFORM_HOME": str(shutil.copytree(finished_home, tmp_path / "home"))}))


def test_the_story_is_printed_and_its_figures_are_those_of_the_tables(home: Home, tmp_path: Path) -> None:
    story = tmp_path / "told" / "story.md"
    said = told(home, story)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(story.read_text())
    assert str(story) in said.stdout.splitlines()[-1]
    assert (story.parent / "images" / f"story_{MODEL}.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(
        r"Made by ml-platform \S+ at \S+ on .+: 105 periods, \d+ runs, 0 of them failed, in \d+ min", said.stdout
    )

    predictions = home.lake.read(f"{MODEL}/predictions")
    april = predictions.filter(pl.col("prediction_time").dt.month() == 4)
    due = home.lake.read("raw/schedule").filter(
        (pl.col("scheduled_departure_at") - pl.duration(hours=2)).is_between(
            LEARNED_UNTIL, pl.datetime(2013, 4, 15, time_zone="UTC"), closed="none"
        )
    )
    text = said.stdout.partition(f"## {MODEL}")[2].partition("\n## ")[0]
    assert f"| 2013-04 | {april.height:,} | 1 (no champion) | 1 | 0 |" in text
    assert f"Balanced: of {due.height:,} things due after 2013-03-17 00:00 and by 2013-04-15 00:00" in text
    assert f"{due.height:,} were scored, 0 of them twice by one version" in text


def test_a_flight_that_one_version_scored_twice_is_told_and_fails_the_command(home: Home, tmp_path: Path) -> None:
    """What is missing is scored anew by this very command; what stands is never changed."""
    place = home.lake.uri(f"{MODEL}/predictions")
    deltalake.write_deltalake(place, pl.read_delta(place).sort("flight_id")[100:101].to_arrow(), mode="append")
    said = told(home, tmp_path / "story.md")
    assert said.returncode == 1
    assert f"{MODEL}: its accounts do not balance." in said.stderr
    assert "delay_minutes: its accounts" not in said.stderr
    assert re.search(r"\*\*Not balanced\*\*: of [\d,]+ things .* 1 of them twice by one version", said.stdout)
