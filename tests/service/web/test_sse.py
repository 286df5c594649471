"""The page's own event-stream parser, in Chromium: whatever the network does to the bytes, the events are the same."""

from typing import Any

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PARSE = """async (pieces) => {
  const { SseParser } = await import("/static/sse.js");
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(new Uint8Array(piece)));
}"""

# every cut into two, and every cut into three up to this length: one call, since a call costs more than the parsing
EVERY_CUT = """async (bytes) => {
  const { SseParser } = await import("/static/sse.js");
  const whole = new Uint8Array(bytes);
  const parse = (cuts) => {
    const parser = new SseParser();
    const ends = [...cuts, whole.length];
    return JSON.stringify(ends.flatMap((end, at) => parser.push(whole.subarray(at ? ends[at - 1] : 0, end))));
  };
  const expected = parse([]);
  let tried = 0;
  const wrong = [];
  for (let first = 0; first <= whole.length; first += 1) {
    for (let second = first; second <= whole.length; second += 1) {
      tried += 1;
      if (parse([first, second]) !== expected) wrong.push([first, second]);
    }
  }
  return { tried, wrong, events: JSON.parse(expected) };
}"""


async def parse(page: Page, *pieces: bytes) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = await page.evaluate(PARSE, [list(piece) for piece in pieces])
    return events


@pytest.mark.parametrize(
    "text",
    [
        "id: 1-0\nevent: reply.delta\ndata: {}\n\n: ping\n\nid: 1-1\ndata: 🌊é漢\n\n",
        "id: 1-0\r\nevent: a\r\ndata: x\r\n\r\nid: 1-1\r\ndata: 🌊\r\n\r\n",
        "id: 1-0\revent: a\rdata: x\r\rdata: y\r\r",
        "\ufeffdata: one\ndata: two\r\ndata\r\ndata: \n\n:c\n\n\n\nevent: nothing\n\nid: 3-4\nretry: 5\ndata:no space\n\n",
    ],
)
async def test_the_same_events_however_the_bytes_are_cut(blank: Page, text: str) -> None:
    found = await blank.evaluate(EVERY_CUT, list(text.encode()))
    assert found["wrong"] == []
    assert found["tried"] >= len(text) ** 2 / 2
    assert found["events"]


async def test_fields(blank: Page) -> None:
    text = b"\xef\xbb\xbf: ping\n\nid: 1-7\nevent: reply.delta\ndata: one\ndata:  two\nunknown: x\n\ndata: bare\n\nevent: empty\n\n"
    assert await parse(blank, text) == [
        {"id": "1-7", "type": "reply.delta", "data": "one\n two"},
        {"id": None, "type": "message", "data": "bare"},
    ]


async def test_an_event_without_its_blank_line_has_not_happened(blank: Page) -> None:
    assert await parse(blank, b"id: 1-1\ndata: half") == []
    assert await parse(blank, b"id: 1-1\ndata: half\n") == []


async def test_bytes_that_are_no_utf8_become_marks_and_nothing_is_lost_after_them(blank: Page) -> None:
    assert await parse(blank, b"data: \xff\xfe\n\n", b"data: ok\n\n") == [
        {"id": None, "type": "message", "data": "��"},
        {"id": None, "type": "message", "data": "ok"},
    ]


async def test_an_id_with_nul_is_ignored(blank: Page) -> None:
    assert await parse(blank, b"id: 1\x00-1\ndata: x\n\n") == [{"id": None, "type": "message", "data": "x"}]


async def test_a_line_without_end_is_refused(blank: Page) -> None:
    refused = await blank.evaluate("""async () => {
      const { SseParser } = await import("/static/sse.js");
      const parser = new SseParser();
      const piece = new TextEncoder().encode("x".repeat(1_000_000));
      let pushed = 0;
      try { for (; pushed < 10; pushed += 1) parser.push(piece); } catch (error) { return [error.name, pushed]; }
      return null;
    }""")
    assert refused == ["RangeError", 4]


@pytest.mark.parametrize(
    ("a", "b", "later"),
    [
        ("1-2", "1-1", True),
        ("1-10", "1-9", True),
        ("1-1", "1-1", False),
        ("1-1", "1-2", False),
        ("2-0", "1-99", True),
        ("1-99", "2-0", False),
        ("odd", "1-1", True),
        ("1-1", "", True),
    ],
)
async def test_which_event_is_later(blank: Page, a: str, b: str, later: bool) -> None:
    found = await blank.evaluate("""async ([a, b]) => (await import("/static/sse.js")).isLater(a, b)""", [a, b])
    assert found is later
