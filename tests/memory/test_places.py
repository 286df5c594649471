"""Facts that have no message have places of their own, however many come in one millisecond."""

from uuid_utils.compat import uuid7

from memory.facts import place_of


def test_no_two_facts_share_a_place() -> None:
    ids = [uuid7() for _ in range(20_000)]
    places = {place_of(fact_id) for fact_id in ids}
    assert len(places) == len(ids)
    assert min(places) >= 0
    assert max(places) < 1 << 63
