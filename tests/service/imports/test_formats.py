"""What each line of an import becomes."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.imports.formats import FileReader, parser_for
from service.imports.lines import LineReader
from service.imports.records import MAX_TEXT, Broken, Header, Record, Said, Skipped, WrongFormatError


def read(
    data: bytes | str | Iterable[Any], format_: str = "auto", zone: str | None = None, step: int = 7
) -> list[Record]:
    """Records of a file that arrives a few bytes at a time."""
    if isinstance(data, str):
        data = data.encode()
    elif not isinstance(data, bytes):
        data = "\n".join(json.dumps(line) for line in data).encode()
    reader = FileReader(parser_for(format_, zone))
    records: list[Record] = []
    for start in range(0, len(data), step):
        records += reader.feed(data[start : start + step])
    return records + list(reader.finish())


def reason(record: Record) -> str:
    assert isinstance(record, Broken), record
    return record.reason


def said(record: Record) -> Said:
    assert isinstance(record, Said), record
    return record


HEADER = {
    "rapport": 1,
    "title": "Two friends",
    "user": "Caroline",
    "companion": "Melanie",
    "time_zone": "Europe/Berlin",
}


def test_a_conversation_with_a_header() -> None:
    records = read(
        [
            HEADER,
            {"speaker": "Melanie", "text": "Hey!", "at": "2023-05-08T13:56:00", "id": "D1:1"},
            {"speaker": "Caroline", "text": "Hi", "at": "2023-05-08T13:57:00Z", "caption": "a dog"},
        ]
    )
    assert records == [
        Header("Two friends", "Caroline", "Melanie", "Europe/Berlin"),
        Said(2, "assistant", "Melanie", "Hey!", datetime(2023, 5, 8, 11, 56, tzinfo=UTC), "D1:1"),
        Said(3, "user", "Caroline", "Hi [photo: a dog]", datetime(2023, 5, 8, 13, 57, tzinfo=UTC)),
    ]


@pytest.mark.parametrize(
    ("lines", "roles"),
    [
        ([{"speaker": "Ann"}, {"speaker": "Bo"}, {"speaker": "Ann"}], ["user", "assistant", "user"]),
        ([{"speaker": "Bo", "role": "assistant"}, {"speaker": "Ann", "role": "user"}], ["assistant", "user"]),
        ([{"speaker": "user"}, {"speaker": "assistant"}], ["user", "assistant"]),
        ([{"speaker": "assistant"}, {"speaker": "Ann"}, {"speaker": "user"}], ["assistant", "user", "user"]),
        ([{"role": "user"}, {"role": "assistant"}], ["user", "assistant"]),
        ([HEADER, {"speaker": "Melanie", "role": "user"}, {"speaker": "Third"}], ["assistant", "assistant"]),
        ([{"rapport": 1, "companion": "Bo"}, {"speaker": "Ann"}, {"speaker": "Bo"}], ["user", "assistant"]),
    ],
)
def test_who_is_the_user(lines: list[dict[str, str]], roles: list[str]) -> None:
    records = read([line if "rapport" in line else {"text": "x", **line} for line in lines])
    assert [record.role for record in records if isinstance(record, Said)] == roles


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not JSON"),
        (b'"text"', "one JSON object"),
        (b'{"speaker": "Ann"}', '"text" is missing'),
        (b'{"speaker": "Ann", "text": 7}', '"text" has to be a text'),
        (b'{"text": "no one"}', '"speaker" or a "role"'),
        (b'{"speaker": "Ann", "text": "a\\u0000b"}', "NUL"),
        (b'{"speaker": "A\\u0000", "text": "ab"}', "NUL"),
        (b'{"speaker": "Ann", "text": "\\ud800"}', "not JSON"),
        (b'{"speaker": "Ann", "text": "caf\xe9"}', "not UTF-8"),
        (b'{"speaker": "Ann", "text": "x", "at": "soon"}', "is not a time"),
        (b'{"speaker": "Ann", "text": "x", "at": 1e308}', "is not a time"),
        (b'{"speaker": "Ann", "text": "x", "at": "0001-01-01T00:00:00+14:00"}', "is not a time"),
        (b'{"speaker": "Ann", "text": "x", "at": "2500-01-01"}', "between the years"),
        (b'{"speaker": "Ann", "text": "x", "role": "king"}', '"role"'),
        (b'{"speaker": "' + b"A" * 300 + b'", "text": "x"}', "300 characters"),
        (b'{"speaker": "Ann", "text": "' + b"x" * (MAX_TEXT + 1) + b'"}', "100,001 characters"),
        (b'{"speaker": "Ann", "text": "' + b"x" * 1_100_000 + b'"}', "longer than 1 MiB"),
        (b'{"rapport": 2}', "version 1"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_told_and_the_rest_goes_in(line: bytes, expected: str) -> None:
    good = b'{"speaker": "Ann", "text": "kept", "at": "2024-01-01"}'
    # only as a first line is a header one
    lines = [line, good] if b"rapport" in line else [good, line, good]
    *_, wrong, last = read(b"\n".join(lines), step=50_000)
    assert expected in reason(wrong)
    assert said(last).text == "kept"


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b'[{"speaker": "Ann"}]', "one JSON list"),
        ('{"speaker": "Ann"}'.encode("utf-16"), "UTF-16"),
        ('{"speaker": "Ann"}'.encode("utf-16-le"), "UTF-16"),
        (b"PK\x03\x04....", "packed"),
    ],
)
def test_another_kind_of_file_is_named(start: bytes, expected: str) -> None:
    with pytest.raises(WrongFormatError, match=expected):
        read(start)


def test_a_byte_order_mark_blank_lines_and_crlf_are_nothing() -> None:
    line = b'{"speaker": "Ann", "text": "x"}'
    records = read(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
    assert [said(record).number for record in records] == [1, 4]


def test_unknown_formats_and_zones_are_refused() -> None:
    with pytest.raises(WrongFormatError, match="no format"):
        parser_for("docx", None)
    with pytest.raises(WrongFormatError, match="not a time zone"):
        parser_for("rapport", "Mars/Olympus")


ST_HEADER = {
    "user_name": "You",
    "character_name": "Seraphina",
    "create_date": "2023-6-8 @14h 21m 33s 123ms",
    "chat_metadata": {},
}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (1686234093123, datetime(2023, 6, 8, 14, 21, 33, 123000, UTC)),
        ("1686234093123", datetime(2023, 6, 8, 14, 21, 33, 123000, UTC)),
        ("2023-6-8 @14h 21m 33s 123ms", datetime(2023, 6, 8, 12, 21, 33, 123000, UTC)),
        ("2024-07-12@01h31m37s", datetime(2024, 7, 11, 23, 31, 37, 0, UTC)),
        ("2025-07-12@01h31m37s042ms", datetime(2025, 7, 11, 23, 31, 37, 42000, UTC)),
        ("June 19, 2023 2:20pm", datetime(2023, 6, 19, 12, 20, tzinfo=UTC)),
        ("December 1, 2023 12:05am", datetime(2023, 11, 30, 23, 5, tzinfo=UTC)),
        ("2025-09-01T10:11:12.345Z", datetime(2025, 9, 1, 10, 11, 12, 345000, UTC)),
    ],
)
def test_sillytavern_dates_of_all_its_years(sent: object, expected: datetime) -> None:
    records = read([ST_HEADER, {"name": "You", "is_user": True, "send_date": sent, "mes": "hi"}], zone="Europe/Berlin")
    assert said(records[1]).at == expected


def test_sillytavern_lines() -> None:
    records = read(
        [
            {"chat_metadata": {"integrity": "abc"}, "user_name": "unused", "character_name": "unused"},
            {
                "name": "Seraphina",
                "is_user": False,
                "is_system": False,
                "mes": "chosen",
                "swipes": ["a", "chosen"],
                "swipe_id": 1,
            },
            {"name": "You", "is_user": True, "mes": "hidden", "is_system": True},
            {"name": "Note", "is_user": False, "mes": "The rain falls.", "extra": {"type": "narrator"}},
            {"name": "Seraphina", "is_user": False, "swipes": ["first", {"message": "second"}], "swipe_id": 1},
            {"name": "You", "is_user": True, "mes": ""},
            {"name": "You", "is_user": True},
        ]
    )
    assert records[0] == Header(key="abc")
    assert [type(record) for record in records[1:]] == [Said, Skipped, Skipped, Said, Skipped, Broken]
    assert (said(records[1]).text, said(records[1]).role, said(records[4]).text) == ("chosen", "assistant", "second")


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_lines_are_the_same_however_they_arrive(data: bytes, step: int) -> None:
    reader = LineReader()
    lines = [line.data for i in range(0, len(data), step) for line in reader.feed(data[i : i + step])]
    lines += [line.data for line in reader.finish()]
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert lines == [line.removesuffix(b"\r") for line in expected]


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        records = read(data)
    except WrongFormatError:
        return
    assert all(isinstance(record, Header | Said | Skipped | Broken) for record in records)
