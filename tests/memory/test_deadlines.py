"""When something that lies ahead is due: which words name a day, and which only look like it."""

from datetime import UTC, date, datetime

import pytest

from memory import deadlines


@pytest.mark.parametrize(
    ("said", "day"),
    [
        # on a Wednesday
        ("J'ai mon entretien vendredi.", 8),
        ("Mon entretien est vendredi.", 8),
        ("Mon entretien approche.", None),
        ("I have an interview on Mon.", 11),
        ("My interview is Mon at 5.", 11),
        ("Guten Morgen, am Freitag habe ich ein Vorstellungsgespräch.", 8),
        ("Morgen! Am Freitag habe ich ein Vorstellungsgespräch.", 8),
        ("Morgen zusammen, am Freitag habe ich eine Prüfung.", 8),
        ("Am Morgen habe ich eine Prüfung.", None),
        ("Jeden Morgen laufe ich.", None),
        ("Heute Morgen habe ich eine Prüfung.", 6),
        ("Am Freitag Morgen habe ich eine Prüfung.", 8),
        ("Am Freitagmorgen habe ich eine Prüfung.", 8),
        ("Morgen habe ich eine Prüfung.", 7),
        ("Morgen früh habe ich eine Prüfung.", 7),
        ("Morgen, Donnerstag, habe ich eine Prüfung.", 7),
        ("Morgen habe ich eine Prüfung, am Freitag feiern wir.", None),
        ("Übermorgen habe ich eine Prüfung.", 8),
        ("Mañana tengo un examen.", 7),
        ("Pasado mañana tengo un examen.", 8),
        ("El viernes por la mañana tengo un examen.", 8),
        ("Esta mañana tengo un examen.", None),
        ("J'ai un examen demain.", 7),
        ("J'ai un examen après-demain.", 8),
        ("I had an interview last Friday.", None),
        ("Letzten Freitag hatte ich eine Prüfung.", None),
        ("El viernes pasado tuve un examen.", None),
        ("Vendredi dernier j'avais un examen.", None),
        ("I had an exam last Friday, the next is on Monday.", 11),
    ],
)
def test_no_other_word_is_taken_for_a_day(said: str, day: int | None) -> None:
    wednesday = datetime(2026, 5, 6, 10, tzinfo=UTC)
    assert deadlines.ahead(said, wednesday, "Europe/Berlin") == (day and date(2026, 5, day))
