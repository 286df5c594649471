from uuid import UUID, uuid4

import pytest
import snowballstemmer

from memory import associations, lexical

USER = UUID("6f1f7a54-3f9e-4a4e-9d51-000000000001")


def test_inflections_meet_and_function_words_vanish() -> None:
    assert lexical.terms("I was painting the horses") == lexical.terms("paints a horse")


def test_stems_that_come_with_the_table_are_the_stemmers() -> None:
    """What was stored by one process is asked for by another, which may have none of them at hand."""
    associations.table()
    stemmer = snowballstemmer.stemmer("english")
    known = list(lexical.ENGLISH_STEMS)
    assert len(known) > 20_000
    for word in known[::25]:
        assert lexical.stem(word, "en") == stemmer.stemWord(word)
    assert lexical.stem("mangeaient", "fr") == snowballstemmer.stemmer("french").stemWord("mangeaient")


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("de", "Häuser", "Hauses"),
        ("fr", "mangeait", "mangeaient"),
        ("es", "gatos", "gato"),
        ("en", "кошки", "кошка"),
    ],
)
def test_other_languages_are_stemmed_by_their_own_rules(language: str, one: str, other: str) -> None:
    assert lexical.terms(one, language) == lexical.terms(other, language)


def test_scripts_without_spaces_are_cut_into_pairs() -> None:
    assert set(lexical.terms("我喜欢猫")) == {"我喜", "喜欢", "欢猫"}
    assert set(lexical.terms("猫")) == {"猫"}
    assert set(lexical.terms("東京タワー and Kyoto")) >= {"東京", "kyoto"}


def test_a_language_without_rules_still_counts_words() -> None:
    assert lexical.terms("ndege ndege mti", "sw") == {"ndege": 2, "mti": 1}


def test_term_ids_fit_their_columns_and_differ_between_users() -> None:
    ids = {lexical.term_id(f"word{n}", USER.bytes) for n in range(2000)}
    assert len(ids) == 2000
    assert all(0 < number <= lexical.TERM_SPACE for number in ids)
    assert (
        lexical.term_id("cat", USER.bytes)
        == lexical.term_id("cat", USER.bytes)
        != lexical.term_id("cat", uuid4().bytes)
    )


def test_a_repeated_term_weighs_more_and_a_long_message_less() -> None:
    once, twice = lexical.weights({"cat": 1})["cat"], lexical.weights({"cat": 2})["cat"]
    among_many = lexical.weights({"cat": 1, **{f"w{n}": 1 for n in range(60)}})["cat"]
    assert among_many < once < twice < 1 + lexical.K1
