"""A message and its reply on the page, whatever happens on the way."""

import pytest
from playwright.async_api import Page, expect

from tests.fixtures.browser import OpenContext, Watch
from tests.service.web.scripted import (
    BASE,
    BROKEN,
    C1,
    T1,
    T2,
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

RECALLED = ("1-1", "memory.recalled", {"items": [memory("Guards her pottery hour.")], "tokens": 9, "elapsed_ms": 5.0})


async def say(page: Page, text: str = "Hello") -> None:
    await page.get_by_label("Your message").fill(text)
    await page.keyboard.press("Enter")


async def reply_text(page: Page) -> str:
    return await page.locator(".theirs .words").last.inner_text()


async def test_a_newcomer_just_writes(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(
            accepted(),
            RECALLED,
            delta("1-2", "Good *evening*, "),
            delta("1-3", "you."),
            completed("1-4", scripted=True),
        )
    )
    await page.goto(BASE)
    await expect(page.get_by_role("heading", name="A companion that remembers.")).to_be_visible()
    await say(page, "Hello, it is me, and this is a longish first message of mine")
    await expect(page.locator(".scripted")).to_be_visible()
    assert await reply_text(page) == "Good evening, you."
    await expect(page.get_by_role("button", name="1 memory")).to_be_visible()
    card = page.locator("#recalled-list .card")
    await expect(card).to_contain_text("Guards her pottery hour.")
    await expect(card).to_contain_text("Caroline · 7 May 2023")
    await expect(card).to_contain_text("Similar in meaning, shares words")
    assert page.url == f"{BASE}/#/c/{C1}"
    assert [call.body for call in service.made("POST", "/v1/session")] == [{}]
    [created] = service.made("POST", "/v1/conversations")
    assert created.body["title"] == "Hello, it is me, and this is a longish first…"
    assert created.body["time_zone"]
    [sent] = service.sent()
    assert sent["content"].startswith("Hello, it is me")
    assert len(sent["client_message_id"]) == 36


async def test_shift_enter_breaks_the_line_and_a_composing_enter_sends_nothing(
    page: Page, service: ScriptedService
) -> None:
    await page.goto(BASE)
    field = page.get_by_label("Your message")
    await field.fill("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await field.evaluate(
        "(node) => node.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert await field.input_value() == "one\ntwo"
    assert service.sent() == []


async def test_a_broken_stream_is_read_on_and_nothing_is_shown_twice(page: Page, service: ScriptedService) -> None:
    service.on_send(stream(accepted(), delta("1-2", "one ")))
    service.on_follow(
        T1,
        BROKEN,
        stream(delta("1-2", "one "), delta("1-3", "two ")),
        problem(503, "store_unavailable", "Not possible right now", "Try again."),
        stream(delta("1-3", "two "), delta("2-0", "three"), completed("2-1")),
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.get_by_text("Reconnecting…")).to_be_visible()
    await expect(page.locator(".theirs.live")).to_have_count(0)
    assert await reply_text(page) == "one two three"
    follows = service.made("GET", f"/v1/conversations/{C1}/turns/{T1}/stream")
    assert [call.query["after"] for call in follows] == ["1-2", "1-2", "1-3", "1-3"]
    await expect(page.get_by_text("Reconnecting…")).to_have_count(0)
    assert len(service.sent()) == 1


async def test_a_send_that_broke_is_sent_again_with_its_key(page: Page, service: ScriptedService) -> None:
    service.on_send(BROKEN, stream(), stream(accepted(duplicate=True), delta("1-2", "Here."), completed("1-3")))
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".theirs .words")).to_have_text("Here.")
    await expect(page.locator(".mine")).to_have_count(1)
    assert len({sent["client_message_id"] for sent in service.sent()}) == 1
    assert len(service.sent()) == 3


async def test_a_double_tap_sends_once(page: Page, service: ScriptedService) -> None:
    service.on_send(stream(accepted(), delta("1-2", "Once."), completed("1-3")))
    await page.goto(BASE)
    await page.get_by_label("Your message").fill("Hi")
    await page.get_by_role("button", name="Send").dblclick()
    await expect(page.locator(".theirs .words")).to_have_text("Once.")
    assert len(service.sent()) == 1


async def test_one_who_gives_up_says_so_and_can_try_again(page: Page, service: ScriptedService) -> None:
    service.on_send(stream(accepted(), delta("1-2", "half ")))
    service.on_follow(T1, BROKEN, BROKEN, BROKEN, stream(delta("1-3", "whole"), completed("1-4")))
    await page.goto(BASE)
    await page.evaluate("""async () => { (await import("/static/turns.js")).RETRY.attempts = 2; }""")
    await say(page)
    await expect(page.locator(".trouble-title")).to_have_text("Rapport can't be reached")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".theirs .words")).to_have_text("half whole")
    await expect(page.locator(".trouble-title")).to_have_count(0)


async def test_delays_grow_up_to_a_bound_and_are_spread(page: Page) -> None:
    await page.goto(f"{BASE}/blank")
    low, high = await page.evaluate("""async () => {
      const { delayBefore } = await import("/static/turns.js");
      const of = (random) => [0, 1, 2, 3, 4, 5, 9, 30].map((attempt) => delayBefore(attempt, () => random));
      return [of(0), of(1)];
    }""")
    assert high == [300, 600, 1200, 2400, 4800, 8000, 8000, 8000]
    assert low == [each / 2 for each in high]


async def test_take_over_keeps_the_common_beginning(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(
            accepted(),
            delta("1-2", "🌊🌊 sea and lost"),
            ("2-0", "turn.taken_over", {"grade": "prefix", "kept_chars": 6}),
            delta("2-1", " and kept"),
            completed("2-2"),
        )
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".theirs .words")).to_have_text("🌊🌊 sea and kept")


async def test_rebase_replaces_the_bubble(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(accepted(), delta("1-2", "First try"), ("2-0", "turn.rebased", {"text": "", "reason": "restarted"})),
    )
    service.on_follow(T1, stream(delta("2-1", "Second try"), completed("2-2")))
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".theirs .words")).to_have_text("Second try")


async def test_a_failed_turn_counts_down_and_is_tried_again(page: Page, service: ScriptedService) -> None:
    failure = {"title": "Not possible right now", "detail": "The service is busy.", "code": "busy", "status": 503}
    failed = ("1-2", "turn.failed", {**failure, "retryable": True, "retry_after": 2})
    service.on_send(stream(accepted(), failed))
    service.on(
        "POST",
        f"/v1/conversations/{C1}/messages/m1/alternatives",
        stream(accepted(T2), delta("1-1", "Now."), completed("1-2", 2)),
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".trouble-box")).to_contain_text("The service is busy.")
    button = page.get_by_role("button", name="Try again in")
    await expect(button).to_be_disabled()
    await page.get_by_role("button", name="Try again", exact=True).click()
    await expect(page.locator(".theirs .words")).to_have_text("Now.")
    # the message was kept: it is answered once more, not said once more
    await expect(page.locator(".mine")).to_have_count(1)
    assert len(service.sent()) == 1


async def test_a_failure_that_is_final_offers_no_retry(page: Page, service: ScriptedService) -> None:
    failure = {"title": "This is not open to you", "detail": "Locked meanwhile.", "code": "route_locked", "status": 403}
    service.on_send(
        stream(
            accepted(),
            delta("1-1", "So far"),
            ("1-2", "turn.failed", {**failure, "retryable": False, "retry_after": None}),
        )
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".trouble-box")).to_contain_text("Locked meanwhile.")
    await expect(page.locator(".trouble button")).to_have_count(0)
    assert await reply_text(page) == "So far"


async def test_a_refusal_is_shown_plainly_and_the_text_is_not_lost(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(route="mature", title="Nights")]
    service.on_send(
        problem(403, "age_assurance_required", "This is not open to you", "Your age has not been verified.")
    )
    await page.goto(f"{BASE}/#/c/{C1}")
    await say(page, "Good evening")
    trouble = page.locator(".mine .trouble")
    await expect(trouble).to_contain_text("This is not open to you")
    await expect(trouble).to_contain_text("Your age has not been verified.")
    await expect(trouble.get_by_role("button", name="Try again")).to_have_count(0)
    await trouble.get_by_role("button", name="Edit").click()
    assert await page.get_by_label("Your message").input_value() == "Good evening"
    await expect(page.locator(".mine")).to_have_count(0)


async def test_too_many_messages_wait_for_their_time(page: Page, service: ScriptedService) -> None:
    service.on_send(
        problem(429, "rate_limited", "A short break", "60 messages a minute.", retry_after=1),
        stream(accepted(), delta("1-1", "Yes."), completed("1-2")),
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.get_by_role("button", name="Try again in 1 s")).to_be_disabled()
    await page.get_by_role("button", name="Try again", exact=True).click()
    await expect(page.locator(".theirs .words")).to_have_text("Yes.")
    assert len({sent["client_message_id"] for sent in service.sent()}) == 1


async def test_a_turn_in_progress_is_followed_and_the_message_kept(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation()]
    service.on_send(problem(409, "turn_in_progress", "Not now", "Another reply is being written.", turn_id=T2))
    service.on_follow(T2, stream(accepted(T2, 1), delta("1-1", "The other reply"), completed("1-2")))
    service.messages = [message(1, "user", "Asked elsewhere")]
    await page.goto(f"{BASE}/#/c/{C1}")
    service.messages.append(message(2, "assistant", "The other reply", turn_id=T2))
    await say(page, "Mine")
    await expect(page.locator(".trouble-box").get_by_text("Another reply is being written.")).to_be_visible()
    await expect(page.locator(".theirs .words")).to_have_text(["The other reply"])
    await expect(page.locator(".mine .words")).to_have_text(["Asked elsewhere", "Mine"])


async def test_reload_resumes_the_reply_that_is_being_written(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(last_seq=1, active_turn_id=T1)]
    service.messages = [message(1, "user", "Hello")]
    service.on_follow(
        T1,
        stream(accepted(), RECALLED, delta("1-2", "From the start, ")),
        stream(delta("1-3", "to the end."), completed("1-4")),
    )
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator(".theirs .words")).to_have_text("From the start, to the end.")
    follows = service.made("GET", f"/v1/conversations/{C1}/turns/{T1}/stream")
    assert [call.query.get("after") for call in follows] == [None, "1-2"]
    await expect(page.locator("#recalled-list .card")).to_have_count(1)
    assert service.sent() == []


async def test_a_second_tab_follows(open_context: OpenContext, service: ScriptedService) -> None:
    context = await open_context()
    await context.route("**/*", service.answer)
    first, second = await context.new_page(), await context.new_page()
    service.conversations = [conversation()]
    for tab in (first, second):
        await tab.goto(f"{BASE}/#/c/{C1}")
        await expect(tab.locator("#title")).to_have_text("Pottery")
    service.messages = [message(1, "user", "Hello both")]
    events = (accepted(), delta("1-1", "Seen twice."), completed("1-2"))
    service.on_send(stream(*events))
    service.on_follow(T1, stream(*events))
    await say(first, "Hello both")
    for tab in (first, second):
        await expect(tab.locator(".theirs .words")).to_have_text(["Seen twice."])
        await expect(tab.locator(".mine .words")).to_have_text(["Hello both"])


async def test_stop_asks_the_service_and_keeps_the_text(page: Page, service: ScriptedService) -> None:
    service.on_send(stream(accepted(), delta("1-1", "Once upon a")))
    service.on_follow(T1, BROKEN)
    service.on(
        "POST",
        f"/v1/conversations/{C1}/turns/{T1}/stop",
        reply({"turn_id": T1, "status": "stopped", "last_event_id": "1-2"}),
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.get_by_role("button", name="Send")).to_be_hidden()
    await page.get_by_role("button", name="Stop the reply").click()
    service.on_follow(T1, stream(completed("1-2", finish_reason="stopped")))
    await expect(page.locator(".theirs .message-meta")).to_contain_text("Stopped")
    assert await reply_text(page) == "Once upon a"
    assert len(service.made("POST", f"/v1/conversations/{C1}/turns/{T1}/stop")) == 1
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert await page.evaluate("document.activeElement.id") == "message"


async def test_notices_stand_in_the_talk(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(
            accepted(),
            ("1-1", "notice", {"kind": "ai_disclosure", "text": "I am a program.", "id": "ai_disclosure first"}),
            ("1-2", "notice", {"kind": "crisis_referral", "text": "Call 988.\nNow."}),
            ("1-3", "an.event.of.tomorrow", {"x": 1}),
            ("1-4", "notice", {"kind": "queue", "text": "You are next.", "id": "queue 1"}),
            ("2-0", "notice", {"kind": "ai_disclosure", "text": "I am a program.", "id": "ai_disclosure first"}),
            delta("2-1", "Hello."),
            completed("2-2"),
        )
    )
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".notice")).to_have_text(["I am a program.", "Call 988.\nNow."])
    await expect(page.locator(".theirs .words")).to_have_text("Hello.")


async def test_notices_come_back_with_the_talk(page: Page, service: ScriptedService) -> None:
    """After a reload: before the reply that they were told with, or after the message to which none came."""
    evil = "<img src=x onerror='window.hit=1'>"
    told = [{"id": "ai_disclosure first", "kind": "ai_disclosure", "text": "I am a program."}]
    service.conversations = [conversation(last_seq=3, head_id="m3")]
    service.messages = [
        message(1, "user", "Hello"),
        message(2, "assistant", "Hi.", turn_id=T1, notices=told),
        message(3, "user", "Are you there?", notices=[{"id": "x", "kind": "break_reminder", "text": evil}]),
    ]
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator(".notice")).to_have_text(["I am a program.", evil])
    order = await page.evaluate(
        "[...document.querySelectorAll('#messages > li:not(.day)')].map((item) => item.classList.contains('notice'))"
    )
    assert order == [False, True, False, False, True]
    assert await page.evaluate("window.hit") is None


async def test_a_screen_reader_hears_sentences_not_letters(page: Page, service: ScriptedService) -> None:
    text = "This is the first whole sentence. And this one is the second of them. Short end"
    deltas = [delta(f"1-{n + 1}", word + " ") for n, word in enumerate(text.split())]
    service.on_send(stream(accepted(), *deltas, completed("1-99")))
    await page.goto(BASE)
    await say(page)
    await expect(page.locator("#announcer span")).to_have_text(
        ["This is the first whole sentence.", "And this one is the second of them.", "Short end"]
    )
    assert await page.locator("#announcer").get_attribute("aria-live") == "polite"
    assert await page.locator("#thread").get_attribute("aria-live") == "off"


async def test_a_lost_log_shows_the_stored_reply(page: Page, service: ScriptedService) -> None:
    service.on_send(stream(accepted(), delta("1-1", "Beg")))
    service.on_follow(T1, problem(404, "turn_not_found", "There is no such thing", "Gone."))
    turn = {
        "id": T1,
        "status": "completed",
        "text": "Beginning and end.",
        "model": "m",
        "scripted": False,
        "failure": None,
    }
    service.on("GET", f"/v1/conversations/{C1}/turns/{T1}", reply(turn))
    await page.goto(BASE)
    await say(page)
    await expect(page.locator(".theirs .words")).to_have_text("Beginning and end.")


async def test_nothing_said_by_anyone_becomes_active(page: Page, service: ScriptedService, watch: Watch) -> None:
    evil = '<img src=x onerror="window.hit=1"> ![p](https://evil.example/p) [l](javascript:window.hit=1) <script>window.hit=1</script>'
    service.conversations = [
        conversation(title=evil, last_seq=2, companion={"name": evil, "persona": ""}, lock={"reason": evil, "epoch": 1})
    ]
    service.messages = [message(1, "user", evil), message(2, "assistant", evil, speaker=evil)]
    item = memory(
        evil,
        speaker=evil,
        why=[evil],
        source={"conversation_id": C1, "message_id": "m", "seq": 1, "quote": f"q {evil}"},
    )
    service.on_send(
        stream(
            accepted(seq=3),
            ("1-1", "memory.recalled", {"items": [item], "tokens": 1, "elapsed_ms": 1.0}),
            ("1-2", "notice", {"kind": evil, "text": evil}),
            delta("1-3", evil),
            ("1-4", "turn.failed", {"title": evil, "detail": evil, "code": "x", "status": 500, "retryable": False}),
        )
    )
    await page.goto(f"{BASE}/#/c/{C1}")
    await say(page, evil)
    await expect(page.locator(".trouble-title")).to_have_text(evil)
    assert await page.evaluate("window.hit") is None
    # the wordmark is the only picture and the list of conversations holds the only links besides the page's own
    assert await page.evaluate("[...document.images].map((image) => image.getAttribute('src'))") == ["/static/icon.svg"]
    hrefs = await page.evaluate("[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))")
    assert hrefs == ["#message", f"#/c/{C1}", "/v1/export"]
    assert watch.hosts == {"localhost:8321"}


async def test_who_writes_before_the_page_is_ready_is_heard(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation()]
    service.on("POST", "/v1/session", BROKEN, BROKEN, reply(service.who))
    service.on_send(stream(accepted(), delta("1-1", "Heard."), completed("1-2")))
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator("#banner")).to_contain_text("Rapport can't be reached")
    await say(page, "Early words")
    await expect(page.get_by_text("Connecting…", exact=True).last).to_be_visible()
    assert await page.get_by_label("Your message").input_value() == "Early words"
    await expect(page.locator(".theirs .words")).to_have_text("Heard.")
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(page.locator(".mine .words")).to_have_text(["Early words"])


async def test_what_was_not_sent_waits_in_its_conversation(page: Page, service: ScriptedService) -> None:
    other = "01937b3e-0000-7000-8000-000000000002"
    service.conversations = [conversation(), conversation(id=other, title="Other")]
    service.on_send(problem(403, "route_locked", "This is not open to you", "Locked."))
    await page.goto(f"{BASE}/#/c/{C1}")
    await say(page, "Unsent words")
    await expect(page.locator(".trouble-box")).to_be_visible()
    service.on("GET", f"/v1/conversations/{other}/messages", reply({"items": [], "next_before": None}))
    await page.get_by_role("link", name="Other").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Other")
    await expect(page.get_by_label("Your message")).to_have_value("")
    await page.get_by_role("link", name="Pottery").click()
    await expect(page.get_by_label("Your message")).to_have_value("Unsent words")


async def test_what_the_model_thought_is_folded_away(page: Page, service: ScriptedService) -> None:
    service.on_send(
        stream(
            accepted(),
            ("1-1", "reply.reasoning", {"text": "They are *tired*. "}),
            ("1-2", "turn.rebased", {"text": "", "reason": "restarted", "reasoning": "They are "}),
            ("1-3", "reply.reasoning", {"text": "<b>awake</b>."}),
            delta("1-4", "Good morning."),
            completed("1-5"),
        )
    )
    await page.goto(BASE)
    await say(page)
    thought = page.locator(".theirs .thought")
    await expect(page.locator(".theirs .words")).to_have_text("Good morning.")
    await expect(thought.locator("p")).to_be_hidden()
    await thought.get_by_text("Thinking").click()
    await expect(thought.locator("p")).to_have_text("They are <b>awake</b>.")
    service.on_send(stream(accepted(T2, 3), delta("1-1", "Yes."), completed("1-2", 4)))
    await say(page, "Really?")
    await expect(page.locator(".theirs .words").last).to_have_text("Yes.")
    await expect(thought.last).to_be_hidden()
