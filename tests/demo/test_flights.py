import csv
import io
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from serving.demo.flights import FEATURES, UNSEEN, load, source, utc
from serving.demo.traffic import Traffic


@pytest.fixture(scope="module")
def flights(flights_file: Path) -> Traffic:
    return load(source(), flights_file)


def column(flights: Traffic, name: str) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return flights.rows[:, FEATURES.index(name)]


def test_every_flight_once_in_order(flights: Traffic) -> None:
    assert len(flights) == len(set(flights.ids)) == 336_776
    assert np.all(np.diff(flights.times) >= 0)
    assert flights.rows.dtype == np.float32


def test_labels_as_the_csv_says(flights: Traffic) -> None:
    """Read again with another reader: which flights were more than 15 minutes late, and when they landed."""
    with zipfile.ZipFile(source().folder / "flights.csv.zip") as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("flights.csv"))))
    expected = {}
    for row in rows:
        scheduled = datetime.fromisoformat(row["time_hour"]).timestamp() + 60 * int(row["minute"])
        day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
        name = f"{day}-{row['origin']}-{row['carrier']}-{row['flight']}-{int(row['sched_dep_time']):04}"
        late = float("nan") if row["arr_delay"] == "NA" else float(int(row["arr_delay"]) > 15)
        expected[name] = (scheduled, late, row["origin"] + row["flight"])
    assert set(flights.ids) == set(expected)
    assert [expected[name][0] for name in flights.ids] == flights.times.tolist()
    assert [expected[name][2] for name in flights.ids] == flights.keys
    assert np.array_equal([expected[name][1] for name in flights.ids], flights.labels, equal_nan=True)


def test_labels_come_when_the_flight_lands_or_never(flights: Traffic) -> None:
    minutes = (flights.label_times - flights.times) / 60
    assert np.nanquantile(minutes, (0.05, 0.5, 0.95, 0.99)).tolist() == [68, 170, 380, 450]
    assert np.nanmin(minutes) > 0
    assert np.array_equal(np.isnan(flights.label_times), np.isnan(flights.labels))
    assert np.mean(np.isnan(flights.labels)) == pytest.approx(0.028, abs=0.0005)


def test_the_first_flight_with_the_weather_of_its_hour(flights: Traffic) -> None:
    first = dict(zip(FEATURES, flights.rows[0].tolist(), strict=True))
    assert flights.ids[0] == "2013-01-01-EWR-UA-1545-0515"
    assert flights.times[0] == datetime.fromisoformat("2013-01-01T05:15-05:00").timestamp()
    assert first["weekday"] == 1  # a Tuesday
    assert (first["hour"], first["sched_dep"], first["sched_arr"], first["distance"]) == (5, 315, 499, 1400)
    with (source().folder / "weather.csv").open() as file:
        hour = ("EWR", "2013-01-01T10:00:00Z")
        weather = next(row for row in csv.DictReader(file) if (row["origin"], row["time_hour"]) == hour)
    assert first["temp"] == pytest.approx(float(weather["temp"]))
    assert first["wind_dir"] == float(weather["wind_dir"])


def test_what_january_did_not_have_is_unseen(flights: Traffic) -> None:
    destination, january = column(flights, "dest"), flights.times < utc("2013-02-01")
    assert not np.any(destination[january] == UNSEEN)
    assert np.any(destination[~january] == UNSEEN)


def test_values_are_missing_where_nothing_was_measured(flights: Traffic) -> None:
    assert np.mean(np.isnan(column(flights, "wind_gust"))) == pytest.approx(0.76, abs=0.01)
    assert not np.any(np.isnan(column(flights, "departures")))


def test_departures_counts_the_schedule_of_the_hour(flights: Traffic) -> None:
    hour = (flights.times // 3600).astype(int)
    same = [key[:3] == "JFK" for key in flights.keys[:2000]]
    some = next(i for i, jfk in enumerate(same) if jfk)
    expected = sum(jfk and hour[i] == hour[some] for i, jfk in enumerate(same))
    assert column(flights, "departures")[some] == expected


def test_the_cache_gives_the_same(flights: Traffic, flights_file: Path) -> None:
    again = load(source(), flights_file)
    assert again.ids == flights.ids
    assert np.array_equal(again.rows, flights.rows, equal_nan=True)
