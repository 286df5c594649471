"""The page against the real service, as somebody uses it: in a browser, over processes that may die."""

import asyncio
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.fixtures.browser import OpenContext, Watch
from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

# Replies that take minutes: none ends by itself while something is done to it, however busy the machine is.
ENDLESS = json.dumps(
    [
        {
            "name": "scripted",
            "kind": "scripted",
            "routes": ["general", "mature"],
            "script": {"words": 3000, "word_delay": 0.05},
        }
    ]
)

TALK = [
    ("Nora", "I finally signed the lease for the flat above the bakery in Lagos Street.", "2024-03-02T18:00:00Z"),
    ("Maren", "Above a bakery! You will wake to the smell of bread every day.", "2024-03-02T18:01:00Z"),
    ("Nora", "My sister Ilse is lending me her van for the move on the sixteenth.", "2024-03-02T18:03:00Z"),
    ("Maren", "Then let us hope it does not rain on the sixteenth.", "2024-03-02T18:04:00Z"),
    ("Nora", "I adopted a grey cat, he is called Biscuit and hates the van.", "2024-03-20T20:00:00Z"),
    ("Maren", "Biscuit sounds like a cat with opinions.", "2024-03-20T20:02:00Z"),
]


@pytest.fixture
def endless_service(service_factory: Callable[..., LiveService]) -> LiveService:
    service = service_factory(LLM_BACKENDS=ENDLESS)
    service.start()
    return service


async def sign_in(page: Page, service: LiveService, subject: str = "nora") -> None:
    """As somebody does with a token; signing in stays closed for seconds when Redis is slow to answer, and is tried again."""
    await page.goto(f"{service.url}/#token={service.token(subject)}")
    await expect(page.locator("#who-name")).to_have_text(subject, timeout=60_000)
    await expect(page.locator("#banner")).to_be_hidden()


def talk_file(folder: Path) -> Path:
    path = folder / "talk.jsonl"
    lines = [json.dumps({"speaker": speaker, "text": text, "at": at}) for speaker, text, at in TALK]
    lines.insert(3, "{this line is broken")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Your message").fill(text)
    await page.keyboard.press("Enter")


async def words(page: Page) -> str:
    text: str | None = await page.locator(".theirs .words").last.text_content()
    return text or ""


async def until_words(page: Page, count: int) -> None:
    await expect(page.locator(".theirs .words").last).to_have_text(re.compile(rf"(\S+\s+){{{count},}}"), timeout=30_000)


def assert_whole(reply: str) -> None:
    """The script counts its words: none is missing, and none is there twice."""
    numbers = [int(word) for word in reply.split() if word.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 10


def stored_replies(service: LiveService, subject: str, page: Page) -> list[str]:
    conversation = page.url.rsplit("/", 1)[-1]
    answer = httpx.get(
        f"{service.url}/v1/conversations/{conversation}/messages", headers=service.headers(subject), timeout=10
    )
    answer.raise_for_status()
    return [item["content"] for item in answer.json()["items"] if item["role"] == "assistant"]


async def test_a_newcomer_needs_no_account(live_service: LiveService, open_context: OpenContext) -> None:
    page = await (await open_context()).new_page()
    await page.goto(live_service.url)
    await say(page, "Good evening, what are you?")
    await expect(page.locator(".scripted")).to_be_visible(timeout=60_000)
    await expect(page.locator("#who-name")).to_have_text("Guest")
    reply = await words(page)
    assert "Good evening, what are you?" in reply
    await page.reload()
    await expect(page.locator(".mine .words")).to_have_text(["Good evening, what are you?"])
    assert await words(page) == reply

    # another reply stands beside the first, other words beside the old ones; the chosen branch outlives a reload
    await page.get_by_role("button", name="Another reply").click()
    await expect(page.locator(".theirs")).to_contain_text("2 of 2")
    await page.locator(".mine").hover()
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("Your words").fill("Good morning then")
    await page.get_by_role("dialog").get_by_role("button", name="Send").click()
    await expect(page.locator(".mine")).to_contain_text("2 of 2")
    await expect(page.locator(".theirs .words")).to_contain_text("Good morning then")
    await page.locator(".mine").get_by_role("button", name="The one before").click()
    await expect(page.locator(".mine .words")).to_have_text(["Good evening, what are you?"])
    await expect(page.locator(".theirs")).to_contain_text("2 of 2")
    await page.reload()
    await expect(page.locator(".mine .words")).to_have_text(["Good evening, what are you?"])
    await expect(page.locator(".theirs")).to_contain_text("2 of 2")


async def test_what_was_imported_is_recalled_and_leads_to_its_source(
    live_service: LiveService, open_context: OpenContext, watch: Watch, tmp_path: Path
) -> None:
    page = await (await open_context()).new_page()
    await sign_in(page, live_service)
    assert "token" not in page.url

    await page.get_by_role("button", name="Import a conversation").click()
    await page.get_by_label("File").set_input_files(talk_file(tmp_path))
    await page.get_by_role("button", name="Import", exact=True).click()
    await expect(page.locator("#import-summary")).to_have_text(
        "6 messages imported, 1 line not readable.", timeout=30_000
    )
    await expect(page.locator("#import-errors li")).to_have_count(1)
    await expect(page.locator("#import-errors li")).to_contain_text("Line 4")
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()

    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_label("Your companion's name").fill("Maren")
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await say(page, "Do you remember what my cat is called?")
    await expect(page.locator(".scripted")).to_be_visible(timeout=20_000)
    await expect(page.locator("#conversation-list a")).to_contain_text(
        ["Do you remember what my cat is called?", "talk"]
    )
    card = page.locator("#recalled-list .card").filter(has_text="grey cat")
    await expect(card).to_be_visible()
    await expect(card).to_contain_text("Nora")
    await expect(card).to_contain_text("20 Mar 2024")

    await card.get_by_role("button", name="Open its conversation").click()
    found = page.locator(".message.found")
    await expect(found).to_contain_text("I adopted a grey cat")
    await expect(found).to_be_focused()

    await page.get_by_role("tab", name="What I remember").click()
    await page.get_by_label("Search memories").fill("Whose van do I borrow?")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("#kept-list .card").filter(has_text="sister Ilse")).to_be_visible()
    assert {status for status in watch.statuses if status >= 400} <= {503}


async def test_reload_second_tab_and_stop(
    endless_service: LiveService, open_context: OpenContext, watch: Watch
) -> None:
    context = await open_context()
    page = await context.new_page()
    await sign_in(page, endless_service)
    await say(page, "Count for me")
    await until_words(page, 20)

    second = await context.new_page()
    await second.goto(page.url)
    await until_words(second, 20)

    await page.reload()
    await until_words(page, 30)
    await expect(page.locator(".mine")).to_have_count(1)
    await page.get_by_role("button", name="Stop the reply").click()
    for tab in (page, second):
        await expect(tab.locator(".theirs .message-meta")).to_contain_text("Stopped")
    kept = await words(page)
    assert kept == await words(second)
    assert_whole(kept)
    assert stored_replies(endless_service, "nora", page) == [kept]

    # what one tab says the other shows, from its first word
    await say(second, "And once more")
    await until_words(page, 10)
    await expect(page.locator(".mine .words")).to_have_text(["Count for me", "And once more"])
    await second.get_by_role("button", name="Stop the reply").click()
    await expect(page.locator(".live")).to_have_count(0)
    assert stored_replies(endless_service, "nora", page) == [kept, await words(page)]
    assert {status for status in watch.statuses if status >= 400} <= {503}


async def test_a_stopped_reply_goes_on_in_its_bubble(endless_service: LiveService, open_context: OpenContext) -> None:
    page = await (await open_context()).new_page()
    await sign_in(page, endless_service)
    await say(page, "Count for me")
    await until_words(page, 15)
    stop = page.get_by_role("button", name="Stop the reply")
    more = page.get_by_role("button", name="Continue", exact=True)
    await stop.click()
    await expect(page.locator(".theirs .message-meta")).to_contain_text("Stopped")
    kept = await words(page)
    await page.reload()
    await more.click()
    await until_words(page, len(kept.split()) + 10)
    await stop.click()
    await expect(page.locator(".live")).to_have_count(0)
    # one bubble, and not one of two: it is the same reply, longer
    await expect(page.locator(".theirs")).to_have_count(1)
    await expect(page.locator(".turns:visible")).to_have_count(0)
    longer = await words(page)
    assert longer.startswith(kept)
    assert_whole(longer)
    assert stored_replies(endless_service, "nora", page) == [kept, longer]
    await page.reload()
    await expect(page.locator(".theirs .words")).to_have_text([longer])
    await expect(more).to_be_visible()


async def test_a_killed_server_is_a_pause(endless_service: LiveService, open_context: OpenContext) -> None:
    page = await (await open_context()).new_page()
    await sign_in(page, endless_service)
    await say(page, "Count for me")
    await until_words(page, 20)
    [process] = endless_service.processes
    process.kill(signal.SIGKILL)
    await expect(page.get_by_text("Reconnecting…")).to_be_visible()
    process.start()
    await asyncio.to_thread(process.wait)
    await until_words(page, len((await words(page)).split()) + 20)
    await expect(page.get_by_text("Reconnecting…")).to_have_count(0)
    await page.get_by_role("button", name="Stop the reply").click()
    await expect(page.locator(".live")).to_have_count(0)
    await expect(page.locator(".trouble-box")).to_have_count(0)
    shown = await words(page)
    assert_whole(shown)
    assert stored_replies(endless_service, "nora", page) == [shown]
    await expect(page.locator(".mine")).to_have_count(1)


async def test_the_mature_route_says_what_it_needs(live_service: LiveService, open_context: OpenContext) -> None:
    page = await (await open_context()).new_page()
    await sign_in(page, live_service)
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_label("Mature").check()
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await say(page, "Good evening")
    trouble = page.locator(".trouble-box").or_(page.locator(".form-error:not(:empty)"))
    await expect(trouble).to_contain_text("age")
    await expect(page.locator(".theirs")).to_have_count(0)


async def test_what_an_operator_has_to_mend_is_said_and_tried_again_when_it_is(
    service_factory: Callable[..., LiveService], misbehaving: Misbehaving, open_context: OpenContext
) -> None:
    backend = {"name": "desk", "url": misbehaving.url, "model": "normal", "context_length": 8192, "continues": True}
    service = service_factory(LLM_BACKENDS=json.dumps([backend]))
    service.start()
    misbehaving.override("model-not-found")
    page = await (await open_context()).new_page()
    await sign_in(page, service)
    await say(page, "Are you there?")
    trouble = page.locator(".trouble:visible")
    await expect(trouble).to_contain_text("doesn't have the model", timeout=60_000)
    await expect(trouble).to_contain_text("rapport doctor")
    misbehaving.override("")
    await trouble.get_by_role("button", name="Try again").click()
    await expect(page.locator(".theirs .words").last).to_have_text(REPLY, timeout=60_000)
    await expect(page.locator(".mine .words")).to_have_text(["Are you there?"])
