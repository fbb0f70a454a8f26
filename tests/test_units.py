"""Durations and sizes."""

from __future__ import annotations

import random

import pytest

from hpckit.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86_400),
        ("90m", 5_400),
        ("45s", 45),
        ("10d", 864_000),
        ("1h30m", 5_400),
        ("1d2h3m4s", 93_784),
        ("0s", 0),
        ("12:00:00", 43_200),
        ("01:30:00", 5_400),
        ("1-12:00:00", 129_600),
        ("100:00:59", 360_059),
    ],
)
def test_a_duration_is_read_as_a_person_means_it(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("90", "write 90h, 90m or 90s"),
        ("1:30", "write 1h30m or 1m30s"),
        ("1.5h", "write 1h30m"),
        ("", "not a duration"),
        ("h", "not a duration"),
        ("30m1h", "not a duration"),
        ("1h 30m", "not a duration"),
        ("12:60:00", "not a duration"),
        ("-5m", "not a duration"),
        ("1h\n", "not a duration"),
        ("٣h", "not a duration"),
        ("9" * 5_000 + "h", "not a duration"),
    ],
)
def test_a_doubtful_duration_is_refused_with_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice) as refused:
        parse_duration(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45, "45s"), (5_400, "1h30m"), (86_400, "1d"), (90_061, "1d1h1m1s")],
)
def test_a_duration_is_written_in_its_shortest_spelling(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


def test_every_duration_survives_writing_and_reading() -> None:
    chance = random.Random(1)
    for seconds in [*range(200), *(chance.randrange(10**9) for _ in range(2_000))]:
        assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        ("64G", 65_536),
        ("64GB", 65_536),
        ("64GiB", 65_536),
        ("64 GB", 65_536),
        ("64g", 65_536),
        ("500M", 500),
        ("1.5T", 1_572_864),
        ("1.1G", 1_127),
        ("0.5M", 1),
    ],
)
def test_a_size_is_read_in_slurms_megabytes(text: str, megabytes: int) -> None:
    assert parse_size(text) == megabytes


@pytest.mark.parametrize(
    "text", ["64", "64K", "G", "", "-1G", "1e3G", "64Gb/s", "64G\n", "9" * 400 + "G"]
)
def test_a_doubtful_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 64G"):
        parse_size(text)


def test_every_size_survives_writing_and_reading() -> None:
    chance = random.Random(2)
    for megabytes in [
        *range(1, 200),
        1_024,
        1_048_576,
        *(chance.randrange(1, 10**8) for _ in range(2_000)),
    ]:
        assert parse_size(format_size(megabytes)) == megabytes
    assert [format_size(each) for each in (65_536, 1_536, 2_097_152)] == ["64G", "1536M", "2T"]
