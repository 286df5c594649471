"""What a ranking of memories is worth against annotated evidence, without a judge.

For each question, then averaged: R@k, the share of the gold turns among the sources of the first k items (hit@k: any,
all@k: all of them); S-…, the same by session; R@t…, within that many tokens of context, filled in order with what
fits; ans@t…, the share of a short answer's parts that one item of that context states; date@t…, whether an item drawn
from a gold turn states the answer's date; new_first, whether the newer of two statements stands above the older.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.bench import answers

TOPS = (1, 5, 10, 20, 50)
BUDGETS = (500, 1000, 2000)
UNANSWERABLE = frozenset({"adversarial", "abstention"})
NOT_LITERAL = frozenset({"temporal", "open-domain", "commonsense", "temporal_reasoning"})
FAR = 10**6

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Item:
    """A recalled memory: the turns that it comes from, by conversation, and its text in the prompt."""

    sources: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of the neutral form, with its turns by id."""

    id: str
    turns: Mapping[str, Mapping[str, Any]]

    def own(self, item: Item) -> list[str]:
        return [turn for conversation, turn in item.sources if conversation == self.id and turn in self.turns]

    def rendered(self, turn_id: str) -> str:
        turn = self.turns[turn_id]
        photo = f" [photo: {turn['caption']}]" if turn.get("caption") else ""
        return f"[{turn['date']}] {turn['speaker']}: {turn['text']}{photo}"


def tokens(text: str) -> int:
    return max(1, round(len(text) / 4))


def score(conversation: Conversation, question: Mapping[str, Any], items: Sequence[Item]) -> Scores:
    """All measures of one question."""
    gold = frozenset(question["evidence"])
    drawn = [frozenset(conversation.own(item)) for item in items]
    leaks = sum(len(item.sources) - len(conversation.own(item)) for item in items)
    scores: Scores = {"leaks": float(leaks)}
    if gold:
        scores |= _by_rank(gold, drawn, items) | _by_session(conversation, gold, items)
    scores |= _by_budget(conversation, question, gold, drawn, items)
    return scores | _by_age(question, items)


def _by_rank(gold: frozenset[str], drawn: Sequence[frozenset[str]], items: Sequence[Item]) -> Scores:
    scores: Scores = {}
    for top in TOPS:
        got = gold & frozenset().union(*drawn[:top])
        scores[f"R@{top}"] = len(got) / len(gold)
        scores[f"hit@{top}"] = float(bool(got))
        scores[f"all@{top}"] = float(got == gold)
        scores[f"tok@{top}"] = float(sum(tokens(item.text) for item in items[:top]))
    first = next((place for place, turns in enumerate(drawn, 1) if turns & gold), None)
    scores["mrr"] = 1 / first if first else 0.0
    gain, seen = 0.0, frozenset[str]()
    for place, turns in enumerate(drawn[:10], 1):
        gain += bool((gold & turns) - seen) / math.log2(place + 1)
        seen |= turns
    scores["ndcg@10"] = gain / _ideal(min(10, len(gold)))
    return scores


def _ideal(count: int) -> float:
    return sum(1 / math.log2(place + 1) for place in range(1, count + 1))


def _by_session(conversation: Conversation, gold: frozenset[str], items: Sequence[Item]) -> Scores:
    """A session stands where the first turn recalled of it does."""
    wanted = {conversation.turns[turn]["session"] for turn in gold}
    order = list(
        dict.fromkeys(conversation.turns[turn]["session"] for item in items for turn in conversation.own(item))
    )
    scores = {"S-hit@1": float(bool(order) and order[0] in wanted)}
    for top in (5, 10):
        got = wanted & set(order[:top])
        scores[f"S-R@{top}"] = len(got) / len(wanted)
        scores[f"S-hit@{top}"] = float(bool(got))
    gain = sum((session in wanted) / math.log2(place + 1) for place, session in enumerate(order[:5], 1))
    scores["S-ndcg@5"] = gain / _ideal(min(5, len(wanted)))
    return scores


def _by_budget(
    conversation: Conversation,
    question: Mapping[str, Any],
    gold: frozenset[str],
    drawn: Sequence[frozenset[str]],
    items: Sequence[Item],
) -> Scores:
    wanted = [] if question["category"] in NOT_LITERAL else answers.parts(question["answer"])
    statable = answers.stated(wanted, [conversation.rendered(turn) for turn in gold]) if wanted else 0
    asked = answers.days(question["answer"]) if question["category"] == "temporal" else frozenset[answers.Day]()
    exact = frozenset(day for day in asked if day[2]) or asked
    scores: Scores = {}
    for budget in BUDGETS:
        chosen = _filled(items, budget)
        if gold:
            got = gold & frozenset().union(*(drawn[place] for place in chosen))
            scores[f"R@t{budget}"] = len(got) / len(gold)
        if statable:
            said = answers.stated(wanted, [items[place].text for place in chosen])
            scores[f"ans@t{budget}"] = min(1.0, said / statable)
        if exact:
            said_days = {day for place in chosen if gold & drawn[place] for day in answers.days(items[place].text)}
            months = {(year, month, 0) for year, month, _ in said_days}
            scores[f"date@t{budget}"] = float(bool(exact & (said_days | months)))
    return scores


def _filled(items: Sequence[Item], budget: int) -> list[int]:
    chosen, left = [], budget
    for place, item in enumerate(items):
        cost = tokens(item.text)
        if cost <= left:
            left -= cost
            chosen.append(place)
    return chosen


def _by_age(question: Mapping[str, Any], items: Sequence[Item]) -> Scores:
    """Knowledge updates: is the newer statement there, and above the one that it replaces?"""
    told = question.get("parts") or {}
    old, new = set(told.get("original_info", ())), set(told.get("updated_info", ()))
    if not old or not new or old & new:
        return {}
    places: dict[str, int] = {}
    for place, item in enumerate(items):
        for _, turn in item.sources:
            places.setdefault(turn, place)
    newest, oldest = (min(places.get(turn, FAR) for turn in turns) for turns in (new, old))
    return {
        "new@10": float(newest < 10),
        "stale_only@10": float(oldest < 10 <= newest),
        "new_first": float(newest < oldest),
    }


def averages(rows: Iterable[tuple[str, Scores]]) -> dict[str, Scores]:
    """Means over the (category, scores) of questions: overall, where the unanswerable don't count, and by category."""
    groups: dict[str, list[Scores]] = defaultdict(list)
    for category, scores in rows:
        if category not in UNANSWERABLE:
            groups["overall"].append(scores)
        groups[category].append(scores)
    result = {}
    for name in ["overall", *sorted(groups.keys() - {"overall"})]:
        group = groups[name]
        keys = dict.fromkeys(key for scores in group for key in scores)
        means = {key: _mean([scores[key] for scores in group if key in scores]) for key in keys}
        means["leaks"] = sum(scores["leaks"] for scores in group)
        result[name] = {"n": float(len(group)), **means}
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
