"""Other replies, other words, other ways on: one branch is shown, and all stay within reach."""

import pytest
from playwright.async_api import Page, expect

from tests.service.web.scripted import (
    BASE,
    C1,
    T2,
    Json,
    ScriptedService,
    accepted,
    completed,
    conversation,
    delta,
    message,
    problem,
    reply,
    stream,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PATH = f"/v1/conversations/{C1}"


def forked() -> list[Json]:
    """One question with two replies, of which the second was talked on from."""
    return [
        message(1, "user", "Where to?"),
        message(2, "assistant", "To the sea."),
        message(3, "assistant", "To the hills.", parent_id="m1"),
        message(4, "user", "Which hills?"),
        message(5, "assistant", "The green ones."),
    ]


async def shown(page: Page, *texts: str) -> None:
    await expect(page.locator(".message .words")).to_have_text(list(texts))


async def open_forked(page: Page, service: ScriptedService) -> None:
    service.messages = forked()
    service.conversations = [conversation(last_seq=5, head_id="m5")]
    await page.goto(f"{BASE}/#/c/{C1}")
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")


async def test_one_branch_is_shown_and_another_can_be_chosen(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    service.on("PUT", f"{PATH}/head", reply(conversation(last_seq=5, head_id="m2")))
    fork = page.locator("#m-3")
    await expect(fork).to_contain_text("2 of 2")
    await expect(page.locator(".turns:visible")).to_have_count(1)
    await fork.get_by_role("button", name="The one before").click()
    await shown(page, "Where to?", "To the sea.")
    assert [call.body for call in service.made("PUT", f"{PATH}/head")] == [{"message_id": "m2"}]
    # and back, to the end of that branch
    await page.locator("#m-2").get_by_role("button", name="The next one").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")
    assert service.made("PUT", f"{PATH}/head")[-1].body == {"message_id": "m5"}


async def test_what_is_said_next_follows_the_chosen_branch(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    service.on("PUT", f"{PATH}/head", reply(conversation(last_seq=5, head_id="m2")))
    await page.get_by_role("button", name="The one before").click()
    service.on_send(stream(accepted(T2, 6), delta("1-1", "Cold."), completed("1-2", 7)))
    await page.get_by_label("Your message").fill("Which sea?")
    await page.keyboard.press("Enter")
    await shown(page, "Where to?", "To the sea.", "Which sea?", "Cold.")
    await page.locator("#m-2").get_by_role("button", name="The next one").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")
    await page.locator("#m-3").get_by_role("button", name="The one before").click()
    await shown(page, "Where to?", "To the sea.", "Which sea?", "Cold.")


async def test_another_reply_stands_beside_the_first(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    again = (accepted(T2, 4), delta("1-1", "The blue ones."), completed("1-2", 6))
    service.on("POST", f"{PATH}/messages/m4/alternatives", stream(*again))
    last = page.locator(".theirs").last
    await last.get_by_role("button", name="Another reply").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The blue ones.")
    await expect(page.get_by_label("Your message")).to_be_focused()
    await expect(page.locator("#m-6")).to_contain_text("2 of 2")
    service.on("PUT", f"{PATH}/head", reply(conversation(last_seq=6, head_id="m5")))
    await page.locator("#m-6").get_by_role("button", name="The one before").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")


async def test_another_reply_that_is_refused_leaves_all_as_it_was(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    refusal = problem(429, "rate_limited", "A short break, please", "60 a minute.", retry_after=9)
    service.on("POST", f"{PATH}/messages/m1/alternatives", refusal)
    await page.locator("#m-3").hover()
    await page.locator("#m-3").get_by_role("button", name="Another reply").click()
    await expect(page.locator("#banner")).to_contain_text("A short break, please. 60 a minute.")
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")


async def test_another_reply_that_fails_leaves_the_way_on_as_it_was(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    failure = {"title": "The model server failed", "detail": "No reply.", "code": "backend_refused", "status": 502}
    lost = ("1-1", "turn.failed", {**failure, "retryable": False, "retry_after": None})
    service.on("POST", f"{PATH}/messages/m1/alternatives", stream(accepted(T2, 1), lost))
    await page.locator("#m-3").hover()
    await page.locator("#m-3").get_by_role("button", name="Another reply").click()
    await expect(page.locator(".trouble-box")).to_contain_text("No reply.")
    await expect(page.locator("#m-5")).to_contain_text("The green ones.")
    service.on("POST", f"{PATH}/turns", stream(accepted("t-3", 6), delta("1-1", "Yes."), completed("1-2", 7)))
    await page.get_by_label("Your message").fill("Those?")
    await page.get_by_label("Your message").press("Enter")
    await expect(page.locator("#m-7")).to_contain_text("Yes.")
    await expect(page.locator("#m-5")).to_contain_text("The green ones.")


@pytest.mark.parametrize(
    ("seq", "before"), [(4, ["Where to?", "To the hills."]), (1, [])], ids=["in the middle", "at the beginning"]
)
async def test_other_words_stand_beside_the_old_ones(
    page: Page, service: ScriptedService, seq: int, before: list[str]
) -> None:
    await open_forked(page, service)
    service.on(
        "POST", f"{PATH}/messages/m{seq}/edits", stream(accepted(T2, 6), delta("1-1", "There."), completed("1-2", 7))
    )
    await page.locator(f"#m-{seq}").hover()
    await page.locator(f"#m-{seq}").get_by_role("button", name="Edit").click()
    await page.locator("#text-value").fill("Where exactly?")
    await page.locator("#text-submit").click()
    await shown(page, *before, "Where exactly?", "There.")
    [call] = service.made("POST", f"{PATH}/messages/m{seq}/edits")
    assert call.body["content"] == "Where exactly?"
    assert call.body["client_message_id"]
    await expect(page.locator("#m-6")).to_contain_text("2 of 2")
    await page.locator("#m-6").get_by_role("button", name="The one before").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")


async def test_other_words_that_are_refused_can_be_taken_back(page: Page, service: ScriptedService) -> None:
    await open_forked(page, service)
    service.on("POST", f"{PATH}/messages/m4/edits", problem(403, "route_locked", "This is not open to you", "Locked."))
    await page.locator("#m-4").hover()
    await page.locator("#m-4").get_by_role("button", name="Edit").click()
    await page.locator("#text-value").fill("Other")
    await page.locator("#text-submit").click()
    await expect(page.locator(".trouble-box")).to_contain_text("Locked.")
    await page.locator(".trouble-box").get_by_role("button", name="Edit").click()
    await shown(page, "Where to?", "To the hills.", "Which hills?", "The green ones.")
    await expect(page.get_by_label("Your message")).to_have_value("Other")


async def test_a_branch_that_ends_far_back_is_found(page: Page, service: ScriptedService) -> None:
    long = [message(seq, "user" if seq % 2 else "assistant", f"Message {seq}") for seq in range(1, 161)]
    service.messages = long
    service.conversations = [conversation(last_seq=160, head_id="m20")]
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator(".message .words").last).to_have_text("Message 20")
    await expect(page.locator(".message").first).to_have_attribute("id", "m-11")


async def test_the_tree(blank: Page) -> None:
    found = await blank.evaluate(
        """async (messages) => {
          const { Branches } = await import("/static/branches.js");
          const tree = new Branches();
          tree.put(messages);
          const ids = (list) => list.map((message) => message.id).join(" ");
          const heads = ["m5", "m2", "m1", null, "gone"].map((id) => { tree.headId = id; return ids(tree.path()); });
          return {
            heads,
            of: ids(tree.path("m3")),
            siblings: ids(tree.siblings(tree.byId.get("m2"))),
            alone: ids(tree.siblings(tree.byId.get("m1"))),
            leaves: ["m1", "m2", "m3"].map((id) => tree.leafUnder(id).id),
            last: tree.lastSeq,
            empty: [new Branches().path().length, new Branches().lastSeq],
          };
        }""",
        forked(),
    )
    assert found == {
        "heads": ["m1 m3 m4 m5", "m1 m2", "m1", "m1 m3 m4 m5", "m1 m3 m4 m5"],
        "of": "m1 m3",
        "siblings": "m2 m3",
        "alone": "m1",
        "leaves": ["m5", "m2", "m5"],
        "last": 5,
        "empty": [0, 0],
    }
