"""Makes the landing files of the meters, as their operators would export them. Deterministic."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

START = datetime(2024, 2, 20, tzinfo=UTC)
SITES = {"harbour": 4, "hill": 3, "north": 5}
"""Meters by site, numbered from 1."""

KINDS = {"home": (600, 19.0), "shop": (2000, 13.0), "factory": (9000, 10.0)}
"""Mean watt hours and hour of the peak by kind of customer."""

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Row = tuple[datetime, str]
"""When it became known, and its line."""


def land(landing: Path, until: datetime) -> None:
    """Everything known before ``until``: readings by the hour, the rest by the day, customers once."""
    _write(landing / "customers" / "customers.csv", "site,meter,customer_kind,contracted_w", _customers())
    _land(landing / "readings", "site,meter,measured_at,energy_wh,reported_at", _readings(until), until, HOUR)
    _land(landing / "met_office", "site,observed_at,temperature_c,known_at", _weather(until), until, DAY)
    _land(landing / "installations", "site,meter,installed_at,firmware", _installations(), until, DAY)


def _meters() -> Iterator[tuple[str, int, str]]:
    for site, count in SITES.items():
        for meter in range(1, count + 1):
            yield site, meter, list(KINDS)[(len(site) + meter) % len(KINDS)]


def _customers() -> list[str]:
    return [f"{site},{meter},{kind},{KINDS[kind][0] * 4}" for site, meter, kind in _meters()]


def _readings(until: datetime) -> Iterator[Row]:
    for site, meter, kind in _meters():
        random = Random(f"{site}{meter}")
        mean, peak = KINDS[kind]
        level = random.uniform(0.7, 1.3)
        wander = 0.0
        moment = START
        while moment < until:
            wander = 0.95 * wander + random.gauss(0, 0.05)
            daily = 1 + 0.6 * math.cos((moment.hour - peak) / 12 * math.pi)
            cold = 1 - 0.02 * (_temperature(site, moment) - 8)
            energy = max(0, round(mean * level * daily * cold * (1 + wander)))
            known = moment + HOUR + timedelta(minutes=random.choice([2, 5, 12, 40, 75]))
            # A meter is silent now and then; one falls silent for two days.
            silent = random.random() < 0.02 or (site == "north" and meter == 5 and moment.day in (27, 28))
            if not silent:
                yield known, f"{site},{meter},{_iso(moment)},{energy},{_iso(known)}"
            moment += HOUR


def _temperature(site: str, moment: datetime) -> float:
    day = (moment - START) / DAY
    return 8 + len(site) / 2 + 5 * math.sin(day / 3) + 4 * math.cos((moment.hour - 15) / 12 * math.pi)


def _weather(until: datetime) -> Iterator[Row]:
    for site in SITES:
        moment = START
        while moment < until:
            known = moment + timedelta(minutes=20)
            value = "" if moment.day == 25 and moment.hour == 6 else f"{_temperature(site, moment):.1f}"
            yield known, f"{site},{_iso(moment)},{value},{_iso(known)}"
            moment += 3 * HOUR


def _installations() -> Iterator[Row]:
    for number, (site, meter, _) in enumerate(_meters()):
        yield START, f"{site},{meter},{_iso(START)},100"
        # Half of the meters are renewed once, days after the last installation.
        if number % 2:
            renewed = START + timedelta(days=4 + number / 2, hours=9)
            yield renewed, f"{site},{meter},{_iso(renewed)},{101 + number % 3}"


def _land(folder: Path, header: str, rows: Iterator[Row], until: datetime, every: timedelta) -> None:
    periods: dict[datetime, list[str]] = {}
    moment = START
    while moment < until:
        periods[moment] = []
        moment += every
    for known, line in rows:
        period = START + (known - START) // every * every
        if period in periods:
            periods[period].append(line)
    for period, lines in periods.items():
        name = period.strftime("%Y-%m-%d" if every == DAY else "%Y-%m-%dT%H")
        _write(folder / f"{name}.csv", header, lines)


def _write(path: Path, header: str, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
