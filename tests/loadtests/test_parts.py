"""The load's own parts: a harness that can't see a lost token, or draws a wrong line, would measure nothing."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from loadtests.charts import Chart, Line, number
from loadtests.paper import Assumed, lines, reckoned_with
from loadtests.reports import Report
from loadtests.shapes import users_at
from loadtests.streams import Reply, StreamError, events
from loadtests.topology import nginx_config

SVG = "{http://www.w3.org/2000/svg}"


Step = tuple[str, str, dict[str, object]]


def read(*steps: Step) -> Reply:
    reply = Reply()
    for event_id, kind, data in steps:
        reply.take(event_id, kind, data)
    return reply


ACCEPTED: Step = ("1-0", "turn.accepted", {"turn_id": "t"})


def said(event_id: str, text: str) -> Step:
    return event_id, "reply.delta", {"text": text}


def ended(event_id: str, reason: str = "stop") -> Step:
    return event_id, "turn.completed", {"message_id": "m", "finish_reason": reason}


def test_a_whole_reply_passes() -> None:
    reply = read(ACCEPTED, said("1-1", "tok0@5/4 tok1 "), said("1-2", "tok2@6 "), ended("1-3"))
    reply.check()
    assert (reply.turn_id, reply.message_id, reply.after, len(reply.gaps)) == ("t", "m", "1-3", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tok0 tok2 ", "token 1 is missing"),
        ("tok0 tok1 tok1 ", "token 1 is repeated"),
        ("tok1 ", "token 0 is missing"),
        ("", "empty"),
    ],
)
def test_tokens_that_do_not_add_up_fail(text: str, words: str) -> None:
    with pytest.raises(StreamError, match=words):
        read(ACCEPTED, said("1-1", text), ended("1-2")).check()


def test_a_reply_without_an_end_fails_and_a_stopped_one_does_not() -> None:
    with pytest.raises(StreamError, match="ended with nothing"):
        read(ACCEPTED, said("1-1", "tok0 ")).check()
    with pytest.raises(StreamError, match="backend_busy"):
        read(ACCEPTED, ("1-1", "turn.failed", {"code": "backend_busy"})).check()
    read(ACCEPTED, ended("1-1", "stopped")).check()


def test_events_must_follow_each_other() -> None:
    with pytest.raises(StreamError, match="1-3 came after 1-1"):
        read(ACCEPTED, said("1-1", "a"), said("1-3", "b"))
    with pytest.raises(StreamError, match="1-1 came after 1-1"):
        read(ACCEPTED, said("1-1", "a"), said("1-1", "a"))
    taken = read(
        ACCEPTED,
        said("1-1", "tok0 tok1 "),
        ("2-0", "turn.taken_over", {"kept_chars": 5}),
        said("2-1", "tok1 "),
        ended("2-2"),
    )
    taken.check()
    anew = read(
        ACCEPTED, said("1-1", "tok0 "), ("2-7", "turn.rebased", {"text": ""}), said("2-8", "tok0 tok1 "), ended("2-9")
    )
    anew.check()


def test_a_reader_s_own_absence_is_no_gap() -> None:
    reply = read(ACCEPTED, said("1-1", "tok0 "))
    reply.left()
    reply.take(*said("1-2", "tok1 "))
    assert reply.gaps == []


def test_server_sent_lines_become_events() -> None:
    lines = [b": ping", b"", b"id: 1-0", b"event: reply.delta", b'data: {"text": "a"}', b""]
    assert list(events(lines)) == [("1-0", "reply.delta", {"text": "a"})]


def test_shapes_end_and_never_pass_the_most() -> None:
    for shape in ("steady", "ramp", "spike", "soak"):
        counts = [users_at(shape, second, 100, 60.0) for second in range(60)]
        assert all(count is not None and 1 <= count <= 100 for count in counts), shape
        assert max(count or 0 for count in counts) == 100, shape
        assert users_at(shape, 60, 100, 60.0) is None, shape
    assert [users_at("spike", second, 100, 60.0) for second in (0, 30, 50)] == [20, 100, 20]
    assert users_at("ramp", 27, 100, 60.0) == 50


def test_a_chart_is_well_formed_and_points_lie_where_they_belong() -> None:
    line = Line("p50 <ms>", [(10, 1.0), (100, 2.0), (1000, 4.0)])
    root = ET.fromstring(Chart("A & B", "users", "ms", [line], log_x=True, goal=3.0).svg())
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert len(dots) == 3
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)  # tenfold steps are equal ones
    assert dots[0][1] - dots[1][1] == pytest.approx((dots[1][1] - dots[2][1]) / 2, abs=0.2)
    ET.fromstring(Chart("Nothing yet", "x", "y", []).svg())
    ET.fromstring(Chart("Nothing above zero", "x", "y", [Line("a", [(0, 0)])], log_x=True, log_y=True).svg())
    assert [number(value) for value in (0, 0.25, 250, 12_000, 100_000, 1_500_000)] == [
        "0",
        "0.25",
        "250",
        "12k",
        "100k",
        "1.5M",
    ]


def test_a_report_is_written_three_ways(tmp_path: Path) -> None:
    report = Report("Load <now>")
    report.head("Times")
    report.table(["what", "ms"], [["first | token", "12"]])
    report.chart("times", Chart("Times", "s", "ms", [Line("a", [(0, 1), (1, 2)])]))
    report.write(tmp_path, {"rows": [1]})
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "| first \\| token | 12 |" in markdown
    assert "![Times](times.svg)" in markdown
    assert "Load &lt;now&gt;" in page
    assert "<svg" in page
    assert (tmp_path / "figures.json").read_text() == '{\n "rows": [\n  1\n ]\n}\n'
    ET.parse(tmp_path / "times.svg")


def test_the_proxy_is_the_deployed_one_with_three_servers(tmp_path: Path) -> None:
    text = nginx_config(tmp_path, 8080, [9001, 9002, 9003])
    for port in (9001, 9002, 9003):
        assert f"server 127.0.0.1:{port} max_fails=2 fail_timeout=5s;" in text
    assert "least_conn;" in text
    assert "proxy_buffering off;" in text
    assert "listen 127.0.0.1:8080" in text
    assert "api:8000" not in text


def test_machines_on_paper_follow_from_a_turn_s_cost() -> None:
    row = {
        "all_turns": 100,
        "learnt_messages": 50,
        "cost": {"api": 2.0, "postgres": 1.0, "nginx": 0.1, "valkey": 0.1, "worker": 1.0},
    }
    found = {line[0]: line[1] for line in lines(row, 2.0, Assumed(users=86_400, turns_a_day=10, peak=2.0))}
    assert found["turns a second at the peak"] == "20"
    assert found["cores for api"] == "1"  # 20 ms a turn, 20 turns a second, half full: 0.8
    assert found["cores for worker"] == "1"  # 20 ms a message, two of them, over the day: 0.8
    assert found["storage a day, GB"] == "3"  # 1.7 million messages of 2 kB


def test_the_row_reckoned_with_is_the_largest_that_met_all_goals() -> None:
    def row(users: int, success: float, added: float, wrong: int = 0) -> dict[str, Any]:
        return {"users": users, "success": success, "added_first": {"p95": added}, "wrong_tokens": wrong}

    rows = [
        row(500, 100.0, 183.0),
        row(50, 100.0, 39.0),
        row(1000, 100.0, 2056.0),
        row(800, 99.0, 90.0),
        row(700, 100, 90, 1),
    ]
    assert reckoned_with(rows) is rows[0]
    assert reckoned_with(rows, 1000) is rows[2]
    assert reckoned_with(rows, 60) is None
    assert reckoned_with(rows[2:]) is None
