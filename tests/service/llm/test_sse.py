from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.llm.sse import EventStreamParser, EventStreamTooLongError, ServerSentEvent


def parsed(parts: list[bytes]) -> list[ServerSentEvent]:
    parser = EventStreamParser()
    events = [event for part in parts for event in parser.feed(part)]
    return events + parser.close()


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(stream)) for edge in at), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


LINES = st.sampled_from(
    [
        b"data: {}",
        b'data: {"a": "Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7"}',
        b"data:no space",
        b"data:  two spaces",
        b"data",
        b"data:",
        b": comment",
        b"event: error",
        b"error: {}",
        b"id: 7",
        b"retry: 3000",
        b"nonsense",
        b"",
        b"",
    ]
)
ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(LINES, ENDINGS), max_size=20)).map(
    lambda parts: parts[0] + b"".join(line + ending for line, ending in parts[1])
)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=40))
def test_any_cutting_gives_the_same_events(stream: bytes, edges: list[int]) -> None:
    assert parsed(cut(stream, edges)) == parsed([stream])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_any_bytes_are_read_alike_however_cut(stream: bytes, edges: list[int]) -> None:
    assert parsed(cut(stream, edges)) == parsed([stream])


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_any_of_three_ways(ending: bytes) -> None:
    stream = ending.join([b": hi", b"event: x", b"data: one", b"data: two", b"", b"data: three", b"", b""])
    assert parsed([stream]) == [ServerSentEvent("x", b"one\ntwo"), ServerSentEvent("", b"three")]


def test_a_crlf_cut_in_two_is_one_ending() -> None:
    assert parsed([b"data: a\r", b"\ndata: b\r\n\r\n"]) == [ServerSentEvent("", b"a\nb")]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert parsed([b"data: a\n\n", b"data: [DONE]"]) == [ServerSentEvent("", b"a"), ServerSentEvent("", b"[DONE]")]


def test_an_endless_line_is_cut_off() -> None:
    parser = EventStreamParser(max_event=1000)
    parser.feed(b"data: " + b"x" * 900)
    with pytest.raises(EventStreamTooLongError):
        parser.feed(b"x" * 200)


def test_an_event_of_many_lines_is_cut_off() -> None:
    parser = EventStreamParser(max_event=1000)
    with pytest.raises(EventStreamTooLongError):
        parser.feed(b"data: 123456789\n" * 200)


def test_an_endless_stream_is_cut_off() -> None:
    parser = EventStreamParser(max_stream=10_000)
    for _ in range(1000):
        parser.feed(b"data: {}\n\n")
    with pytest.raises(EventStreamTooLongError):
        parser.feed(b"data: {}\n\n")
