from datetime import UTC, date, datetime

import pytest

from memory import temporal

MONDAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("I went there yesterday", "7 May 2023"),
        ("the day before yesterday", "6 May 2023"),
        ("see you tomorrow", "9 May 2023"),
        ("we met last Friday", "5 May 2023"),
        ("last Monday was hard", "1 May 2023"),
        ("next Tuesday", "9 May 2023"),
        ("this Friday", "12 May 2023"),
        ("two weeks ago", "24 April to 30 April 2023"),
        ("a couple of years ago", "2021"),
        ("three months ago", "February 2023"),
        ("in 3 days", "11 May 2023"),
        ("next month", "June 2023"),
        ("last weekend", "6 May to 7 May 2023"),
        ("last night", "7 May 2023"),
        ("last year", "2022"),
        ("last summer", "June to August 2022"),
        ("on May 5th", "5 May 2023"),
        ("on the 3rd of January", "3 January 2023"),
        ("last December", "December 2022"),
        ("I was born on 5 may", "5 May 2023"),
        ("by march 3 it is done", "3 March 2023"),
        ("the 5th of may is near", "5 May 2023"),
        ("Only 5 May will do", "5 May 2023"),
        ("see you 5 may!", "5 May 2023"),
        ("last may we met", "May 2022"),
        ("this May we met", "May 2023"),
    ],
)
def test_relative_dates_become_calendar_dates(said: str, meant: str) -> None:
    assert temporal.annotate(said, MONDAY).endswith(f"({meant})") or f"({meant})" in temporal.annotate(said, MONDAY)


@pytest.mark.parametrize(
    "said",
    [
        "a few days ago",
        "I may march on",
        "soon",
        "in a while",
        "the last straw",
        "it's next to me",
        "999 years ago",
        "40 May",
        "Only 5 may come",
        "5 of us may come, 2 may not",
        "I march 5 miles a day",
        "You may 2 times a week",
        "this may take long",
        "He had died two years earlier",
        "We had met two days earlier",
    ],
)
def test_what_is_vague_or_no_date_stays_as_it_is(said: str) -> None:
    assert temporal.annotate(said, MONDAY) == said


def test_full_dates_are_not_said_twice() -> None:
    said = "We met on 5 May 2021 and on 2022-01-03."
    assert temporal.annotate(said, MONDAY) == said
    assert [str(span) for span in temporal.resolve(said, MONDAY)] == ["5 May 2021", "3 January 2022"]


def test_the_day_is_the_one_where_the_user_lives() -> None:
    late = datetime(2023, 5, 8, 23, 30, tzinfo=UTC)
    assert "(7 May 2023)" in temporal.annotate("yesterday", late, "UTC")
    assert "(8 May 2023)" in temporal.annotate("yesterday", late, "Asia/Tokyo")
    assert "(7 May 2023)" in temporal.annotate("yesterday", late, "Nowhere/Atlantis")


@pytest.mark.parametrize(
    ("question", "first", "last"),
    [
        ("What did she do in June?", date(2022, 6, 1), date(2022, 6, 30)),
        ("What happened in 2021?", date(2021, 1, 1), date(2021, 12, 31)),
        ("Where was Elise on 31 Dec 2022?", date(2022, 12, 31), date(2022, 12, 31)),
        ("What did I do last week?", date(2023, 5, 1), date(2023, 5, 7)),
        ("What did I tell you yesterday?", date(2023, 5, 7), date(2023, 5, 7)),
    ],
)
def test_questions_name_ranges_of_days(question: str, first: date, last: date) -> None:
    assert temporal.asked_about(question, MONDAY) == [(first, last)]


def test_a_question_without_a_time_names_none() -> None:
    assert temporal.asked_about("What is my dog called? It may bark.", MONDAY) == []
    assert temporal.asked_about("Could this may tree be mine?", MONDAY) == []
