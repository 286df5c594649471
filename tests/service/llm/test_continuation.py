from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.llm.continuation import PrefixGuard
from service.llm.errors import CannotContinueError
from service.llm.probing import BEGUN, graded
from service.llm.reasoning import ThoughtSplitter, may_open_thinking

TEXTS = st.text(alphabet="ab \n.", max_size=60)
CUTS = st.lists(st.integers(0, 200), max_size=12)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def shown(prefix: str, text: str, cuts: Sequence[int]) -> str:
    guard = PrefixGuard(prefix)
    return "".join(guard.feed(piece) for piece in pieces(text, cuts)) + guard.close()


@given(st.text(min_size=8, max_size=40), TEXTS, CUTS)
def test_a_doubled_prefix_is_cut_however_it_arrives(prefix: str, rest: str, cuts: list[int]) -> None:
    begun = prefix.strip()
    if len(begun) >= 8:
        assert shown(begun, begun + rest, cuts) == rest


@given(TEXTS, CUTS)
def test_a_true_continuation_passes_unchanged(rest: str, cuts: list[int]) -> None:
    assert shown("Once upon a time, there was", " Q" + rest, cuts) == " Q" + rest


@pytest.mark.parametrize(
    ("prefix", "text", "joined"),
    [
        ("Hello ", "there", "Hello there"),
        ("Hello ", " there", "Hello there"),
        ("Hello", " there", "Hello there"),
        ("Hello\n\n", "\n\nthere", "Hello\n\nthere"),
        ("Hello\n\n", "\nthere", "Hello\n\nthere"),
        ("Hello ", "\nthere", "Hello \nthere"),
        ("Once upon a time, ", " there was", "Once upon a time, there was"),
    ],
)
def test_blank_space_is_not_doubled(prefix: str, text: str, joined: str) -> None:
    for cuts in ([], list(range(20))):
        assert prefix + shown(prefix, text, cuts) == joined


def test_a_reply_that_begins_anew_is_refused_before_it_is_shown() -> None:
    guard = PrefixGuard("Once upon a time there was a king.")
    assert guard.feed("Once upon a time ") == ""
    with pytest.raises(CannotContinueError):
        guard.feed("there was a queen.")


def test_answers_to_the_begun_sentence_are_told_apart() -> None:
    assert graded(" the lazy dog.") == "continues"
    assert graded(" lazy dog") == "continues"
    assert graded(BEGUN + " the lazy dog.") == "doubles"
    assert graded("The quick brown fox jumps over the lazy dog. The quick brown fox") == "restarts"
    assert graded("Sure! Here it is: The quick brown fox jumps over the lazy dog.") == "restarts"
    assert graded("I can't do that.") == "restarts"


def split(text: str, cuts: Sequence[int]) -> tuple[str, str]:
    splitter = ThoughtSplitter()
    told, thoughts = "", ""
    for piece in [*pieces(text, cuts), None]:
        said, thought = splitter.close() if piece is None else splitter.feed(piece)
        if splitter.took_back:
            told, thoughts, splitter.took_back = "", thoughts + told, False
        told, thoughts = told + said, thoughts + thought
    return told, thoughts


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<", "<th", "hi", " ", "\n", "[THINK]", "[/THINK]", "a < b"]),
        max_size=12,
    ),
    CUTS,
)
def test_thoughts_are_split_alike_however_they_arrive(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    assert split(text, cuts) == split(text, [])


@pytest.mark.parametrize(
    ("text", "said", "thought"),
    [
        ("<think>hm</think>\n\nHello", "Hello", "hm"),
        ("[THINK]hm[/THINK]Hello", "Hello", "hm"),
        ("Hello <b>you</b> [1]", "Hello <b>you</b> [1]", ""),
        ("a < b and <thin air", "a < b and <thin air", ""),
        ("<think>never closed", "", "never closed"),
        ("<think>one</think>Hello<think>two</think>you", "Helloyou", "onetwo"),
        ("Let me think.</think>\n\nHello", "Hello", "Let me think."),
        ("<think>hm</think>Say </think> and go on", "Say and go on", "hm"),
    ],
)
def test_tags_are_found_and_other_brackets_left(text: str, said: str, thought: str) -> None:
    assert split(text, []) == (said, thought)
    assert split(text, list(range(len(text)))) == (said, thought)


def test_a_template_that_opens_the_tag_itself() -> None:
    splitter = ThoughtSplitter(thinking=True)
    assert splitter.feed("hm</thi") == ("", "hm")
    assert splitter.feed("nk>\n\n Hello") == ("Hello", "")


def test_where_a_template_may_open_the_tag_nothing_is_let_out_before_that_is_known() -> None:
    splitter = ThoughtSplitter(thinking=None)
    assert splitter.feed("Let me ") == ("", "")
    assert splitter.feed("think.</thi") == ("", "")
    assert splitter.feed("nk>\n\nHello") == ("Hello", "Let me think.")
    assert (splitter.unopened, splitter.took_back) == (True, False)
    plain = ThoughtSplitter(thinking=None)
    assert [plain.feed("Hel"), plain.feed("lo")] == [("", ""), ("", "")]
    assert plain.close() == ("Hello", "")
    tagged = ThoughtSplitter(thinking=None)
    assert tagged.feed("<think>hm") == ("", "hm")
    assert tagged.feed("</think>Hello") == ("Hello", "")


def test_a_thought_that_was_expected_and_never_ended_is_the_reply() -> None:
    splitter = ThoughtSplitter(thinking=True)
    assert splitter.feed("Hello") == ("", "Hello")
    assert splitter.close(finished=True) == ("Hello", "")
    assert ThoughtSplitter(thinking=True).close(finished=False) == ("", "")


def test_a_begun_reply_is_past_its_thoughts() -> None:
    splitter = ThoughtSplitter(begun=True)
    assert splitter.feed("and then</think> he left") == ("and thenhe left", "")
    assert not splitter.took_back


@pytest.mark.parametrize(
    ("model", "may"),
    [
        ("deepseek-r1-distill-qwen-7b", True),
        ("qwen3-4b-thinking-2507", True),
        ("QwQ-32B", True),
        ("phi-4-mini-reasoning", True),
        ("qwen2.5-7b-instruct", False),
        ("llama-3.2-3b-instruct", False),
        ("gpt-oss-20b", False),
        ("starling-lm-7b-r1x", False),
    ],
)
def test_names_of_models_that_may_begin_inside_a_thought(model: str, may: bool) -> None:
    assert may_open_thinking(model) == may
