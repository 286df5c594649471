"""The memory panel: what is kept can be seen, searched, corrected and forgotten."""

import pytest
from playwright.async_api import Page, expect

from tests.service.web.scripted import (
    BASE,
    C1,
    T1,
    Answer,
    ScriptedService,
    accepted,
    completed,
    conversation,
    delta,
    memory,
    message,
    problem,
    reply,
    stream,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

POTTERY = memory("Goes to pottery on Wednesdays.", id="f1", pinned=False, by_user=False, confirmations=1)
KILN = memory("The kiln broke.", id="e1", layer="episode", kind=None, pinned=False, by_user=False, confirmations=1)


async def open_kept(page: Page) -> None:
    await page.get_by_role("button", name="Memory", exact=True).click()
    await page.get_by_role("tab", name="What I remember").click()


async def test_the_list_is_filtered_by_the_service(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY, KILN]
    await page.goto(BASE)
    await open_kept(page)
    await expect(page.locator("#kept-list .card")).to_have_count(2)
    await page.get_by_label("Show", exact=True).select_option(label="Things still open")
    await expect(page.locator("#kept-list .card")).to_have_count(2)
    queries = [call.query for call in service.made("GET", "/v1/memories")]
    assert queries == [{"limit": "30"}, {"limit": "30", "layer": "fact", "kind": "open_loop"}]


async def test_more_is_loaded_by_cursor(page: Page, service: ScriptedService) -> None:
    service.on(
        "GET",
        "/v1/memories",
        reply({"items": [POTTERY], "next_cursor": "c2"}),
        reply({"items": [KILN], "next_cursor": None}),
    )
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_role("button", name="Show more").click()
    await expect(page.locator("#kept-list .card")).to_have_count(2)
    await expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    assert service.made("GET", "/v1/memories")[-1].query["cursor"] == "c2"


async def test_search_shows_scores_and_an_empty_field_leads_back(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY, KILN]
    hit = {
        key: value for key, value in POTTERY.items() if key in {"id", "layer", "text", "said_at", "speaker", "source"}
    }
    found = {
        **hit,
        "text": "[2023-05-07] Caroline: Goes to pottery on Wednesdays.",
        "score": 0.42,
        "why": ["lexical"],
        "role": "user",
    }
    service.on("POST", "/v1/memories/search", reply({"items": [found], "elapsed_ms": 3.0}))
    service.on("GET", "/v1/memories/f1", reply(POTTERY))
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_label("Search memories").fill("pottery")
    await page.keyboard.press("Enter")
    card = page.locator("#kept-list .card")
    await expect(card).to_have_count(1)
    # the day and the name stand in the line below, once
    await expect(card.locator("blockquote")).to_have_text("Goes to pottery on Wednesdays.")
    await expect(card).to_contain_text("Shares words")
    await expect(card).to_contain_text("0.42")
    [call] = service.made("POST", "/v1/memories/search")
    assert call.body == {"query": "pottery", "limit": 30}
    await card.get_by_role("button", name="Correct").click()
    await expect(page.get_by_label("What is right")).to_have_value("Goes to pottery on Wednesdays.")
    await page.keyboard.press("Escape")
    await page.get_by_label("Search memories").fill("")
    await expect(card).to_have_count(2)


async def test_a_fact_is_corrected(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY, KILN]
    fixed = {
        **POTTERY,
        "id": "f9",
        "text": "Goes to pottery on Thursdays.",
        "by_user": True,
        "sources": [],
        "history": [POTTERY],
    }
    service.on("PATCH", "/v1/memories/f1", reply(fixed))
    service.on("GET", "/v1/memories/f9", reply(fixed))
    await page.goto(BASE)
    await open_kept(page)
    episode = page.locator(".card.episode")
    await expect(episode.get_by_role("button", name="Correct")).to_be_hidden()
    fact = page.locator(".card.fact")
    await fact.get_by_role("button", name="Correct").click()
    await page.get_by_label("What is right").fill("Goes to pottery on Thursdays.")
    await page.get_by_role("button", name="Save").click()
    await expect(fact.locator("blockquote")).to_have_text("Goes to pottery on Thursdays.")
    await expect(fact).to_contain_text("in your words")
    assert service.made("PATCH", "/v1/memories/f1")[0].body == {"text": "Goes to pottery on Thursdays."}
    await fact.get_by_role("button", name="History").click()
    await expect(fact.locator(".card-history li")).to_contain_text(["Goes to pottery on Wednesdays."])


async def test_a_failed_correction_stays_open_with_its_reason(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY]
    service.on(
        "PATCH",
        "/v1/memories/f1",
        problem(409, "not_correctable", "The request contradicts what is there", "It is history."),
    )
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_role("button", name="Correct").click()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#dialog-text .form-error")).to_have_text(
        "The request contradicts what is there: It is history."
    )
    await expect(page.locator("#dialog-text")).to_be_visible()


async def test_pinning(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY]
    service.on("PATCH", "/v1/memories/f1", reply({**POTTERY, "pinned": True}), reply(POTTERY))
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_role("button", name="Pin", exact=True).click()
    await expect(page.locator(".card.fact")).to_contain_text("pinned")
    await page.get_by_role("button", name="Unpin").click()
    await expect(page.locator(".card.fact")).not_to_contain_text("pinned")
    assert [call.body for call in service.made("PATCH", "/v1/memories/f1")] == [{"pinned": True}, {"pinned": False}]


async def test_forgetting_asks_first_and_tells_the_receipt(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY, memory("Loves clay.", id="f2"), KILN]
    stores = [
        {"store": "postgresql", "what": "facts", "removed": 2, "state": "done"},
        {"store": "redis", "what": "logs", "removed": 3, "state": "done"},
    ]
    service.on(
        "DELETE",
        "/v1/memories/f1",
        reply({"id": "r", "scope": "memory", "at": "", "forgotten": ["f1", "f2"], "stores": stores}),
    )
    await page.goto(BASE)
    await open_kept(page)
    card = page.locator(".card").filter(has_text="Wednesdays")
    await card.get_by_role("button", name="Forget").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Cancel").click()
    assert service.made("DELETE", "/v1/memories/f1") == []
    await card.get_by_role("button", name="Forget").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Forget").click()
    # what rested on the same words is gone too
    await expect(page.locator("#kept-list .card")).to_have_count(1)
    await expect(page.locator("#kept-note")).to_have_text("Forgotten: 5 entries removed from 2 places.")


async def test_forget_everything_and_add(page: Page, service: ScriptedService) -> None:
    service.memories = [POTTERY]
    service.on("POST", "/v1/memories", reply(memory("Allergic to peanuts.", id="f7", by_user=True), 201))
    service.on("DELETE", "/v1/memories", reply({"id": "r", "scope": "all", "at": "", "forgotten": [], "stores": []}))
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_role("button", name="Add a memory").click()
    await page.get_by_label("What to remember about you").fill("Allergic to peanuts.")
    await page.get_by_role("button", name="Remember", exact=True).click()
    await expect(page.locator("#kept-list .card").first).to_contain_text("Allergic to peanuts.")
    service.memories = []
    await page.get_by_role("button", name="Forget everything").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Forget everything").click()
    await expect(page.locator("#kept-list .card")).to_have_count(0)
    assert service.made("DELETE", "/v1/memories")[0].query == {"confirm": "everything", "conversations": "keep"}


@pytest.mark.parametrize("status", [405, 501])
async def test_a_control_that_the_service_does_not_know_goes_away(
    page: Page, service: ScriptedService, status: int
) -> None:
    service.memories = [POTTERY]
    service.on("DELETE", "/v1/memories/f1", problem(status, "method_not_allowed", "Method Not Allowed", ""))
    await page.goto(BASE)
    await open_kept(page)
    await page.get_by_role("button", name="Forget", exact=True).click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Forget").click()
    await expect(page.locator("#dialog-confirm .form-error")).to_have_text("This service can't do that yet")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Forget", exact=True)).to_be_hidden()
    await expect(page.get_by_role("button", name="Correct")).to_be_visible()


async def test_a_service_without_memories_is_no_accident(page: Page, service: ScriptedService) -> None:
    service.on("GET", "/v1/memories", Answer(404, b"<html>"))
    await page.goto(BASE)
    await open_kept(page)
    await expect(page.locator("#kept-note")).to_have_text("This service doesn't list memories yet.")


async def test_a_recalled_memory_leads_to_its_message(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(last_seq=200)]
    service.messages = [message(seq, "user" if seq % 2 else "assistant", f"Message {seq}") for seq in range(1, 201)]
    source = {"conversation_id": C1, "message_id": "m40", "seq": 40}
    recalled = (
        "1-1",
        "memory.recalled",
        {"items": [memory("The fortieth.", source=source)], "tokens": 3, "elapsed_ms": 1.0},
    )
    service.on_send(stream(accepted(seq=201), recalled, delta("1-2", "Yes."), completed("1-3", 202)))
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator(".message")).to_have_count(50)
    await page.get_by_label("Your message").fill("Which?")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="See the message").click()
    found = page.locator(".message.found")
    await expect(found).to_contain_text("Message 40")
    await expect(found).to_be_in_viewport()
    await expect(found).to_be_focused()
    assert service.made("GET", f"/v1/conversations/{C1}/messages")[-1].query == {"limit": "50", "before": "65"}
    # from the middle of the talk one gets back to its end
    service.messages += [message(201, "user", "Which?"), message(202, "assistant", "Yes.", turn_id=T1)]
    await page.get_by_role("button", name="Go to the newest messages").click()
    await expect(page.locator(".theirs .words").last).to_have_text("Yes.")
    await expect(page.locator(".theirs .words").last).to_be_in_viewport()


async def test_an_older_reply_tells_its_memories_when_asked(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(last_seq=2)]
    service.messages = [message(1, "user", "Hi"), message(2, "assistant", "Hello.", turn_id=T1)]
    recalled = ("1-1", "memory.recalled", {"items": [POTTERY], "tokens": 3, "elapsed_ms": 1.0})
    service.on_follow(T1, stream(accepted(), recalled, delta("1-2", "Hello."), completed("1-3")))
    await page.goto(f"{BASE}/#/c/{C1}")
    await page.get_by_role("button", name="Which memories served this reply?").click()
    await expect(page.locator("#recalled-list .card")).to_contain_text("Goes to pottery on Wednesdays.")
    await expect(page.get_by_role("button", name="1 memory")).to_be_visible()
    assert len(service.made("GET", f"/v1/conversations/{C1}/turns/{T1}/stream")) == 1


async def test_nothing_recalled_is_said(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(
            accepted(),
            ("1-1", "memory.recalled", {"items": [], "tokens": 0, "elapsed_ms": 1.0}),
            delta("1-2", "Hm."),
            completed("1-3"),
        )
    )
    await page.goto(BASE)
    await page.get_by_label("Your message").fill("Hi")
    await page.keyboard.press("Enter")
    await expect(page.locator(".theirs .words")).to_have_text("Hm.")
    # the panel does not show itself for nothing
    await expect(page.locator("#memory")).to_be_hidden()
    await page.get_by_role("button", name="Memory", exact=True).click()
    await expect(page.locator("#recalled-note")).to_contain_text("Nothing from the past was close enough")
