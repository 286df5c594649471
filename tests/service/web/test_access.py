"""The page can be used by everybody: with a keyboard, a thumb, a screen reader, in any light, on any window."""

import pytest
from playwright.async_api import Page, expect

from tests.fixtures.browser import OpenContext
from tests.service.web.scripted import (
    BASE,
    C1,
    ScriptedService,
    accepted,
    conversation,
    delta,
    memory,
    message,
    stream,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


async def fill_page(page: Page, service: ScriptedService) -> None:
    """Open a conversation with all that can be on the page."""
    service.conversations = [conversation(last_seq=2)]
    long = "unbroken" * 40
    service.messages = [
        message(1, "user", long),
        message(2, "assistant", f"{long}\n\n```\n{long}\n```\n\n- **a**\n- `b`"),
    ]
    service.memories = [memory(long)]
    items = [memory(long, id=str(n)) for n in range(9)]
    failure = {
        "title": "Not possible right now",
        "detail": long,
        "code": "busy",
        "status": 503,
        "retryable": True,
        "retry_after": 60,
    }
    service.on_send(
        stream(
            accepted(seq=3),
            ("1-1", "memory.recalled", {"items": items, "tokens": 9, "elapsed_ms": 1.0}),
            ("1-2", "notice", {"kind": "ai_disclosure", "text": "I am a program."}),
            delta("1-3", "Some text."),
            ("1-4", "turn.failed", failure),
        )
    )
    await page.goto(f"{BASE}/#/c/{C1}")
    await page.get_by_label("Your message").fill("Hello")
    await page.keyboard.press("Enter")
    await expect(page.locator(".trouble-box")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390, 833, 1280])
async def test_nothing_is_wider_than_the_window(
    open_context: OpenContext, service: ScriptedService, width: int
) -> None:
    context = await open_context(viewport={"width": width, "height": 700})
    await context.route("**/*", service.answer)
    page = await context.new_page()
    await fill_page(page, service)
    for action in ("#memory-open", "#tab-kept", "#memory-close"):
        if await page.locator(action).is_visible():
            await page.locator(action).click()
        overflow = await page.evaluate("""() => [...document.querySelectorAll("html, .thread, .panel, .rail-list, dialog[open]")]
            .filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.className || node.localName)""")
        assert overflow == []


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const backOf = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility({ visibilityProperty: true }) || node.closest(":disabled, .visually-hidden, option")) continue;
    seen += 1;
    const [light, dark] = [luminance(parse(getComputedStyle(node).color)), luminance(backOf(node))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) found.push(`${text.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return { seen, found };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground(
    open_context: OpenContext, service: ScriptedService, scheme: str
) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text."""
    context = await open_context(color_scheme=scheme, reduced_motion="reduce")
    await context.route("**/*", service.answer)
    page = await context.new_page()
    await fill_page(page, service)
    for step in (None, "#tab-kept", "#new-conversation"):
        if step:
            await page.locator(step).click()
            await expect(page.locator("#kept-list .card")).to_have_count(1)
        found = await page.evaluate(CONTRAST)
        assert found["seen"] > 20
        assert found["found"] == []


async def test_every_control_has_a_name(page: Page, service: ScriptedService) -> None:
    await fill_page(page, service)
    nameless = await page.evaluate("""() => [...document.querySelectorAll("button, a, input, textarea, select, meter, progress")]
        .filter((node) => node.id !== "" || node.isConnected)
        .filter((node) => {
          const labels = node.labels ? [...node.labels].map((label) => label.textContent).join("") : "";
          const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
          return !(node.textContent.trim() || labels.trim() || by.trim() || node.getAttribute("aria-label"));
        })
        .filter((node) => node.checkVisibility())
        .map((node) => node.outerHTML)""")
    assert nameless == []


async def test_the_keyboard_reaches_everything_in_order(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(last_seq=1)]
    service.messages = [message(1, "user", "Hi")]
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator(".message")).to_have_count(1)
    await page.locator(".skip").focus()
    reached = []
    for _ in range(12):
        # what is focused can be seen to be
        state = await page.evaluate("""() => {
          const node = document.activeElement;
          const style = getComputedStyle(node);
          const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
          const field = node.closest(".composer-field");
          return [node.id || node.className || node.localName, ring || (field !== null && getComputedStyle(field).boxShadow !== "none")];
        }""")
        reached.append(state[0])
        assert state[1], state
        if state[0] == "message":
            break
        await page.keyboard.press("Tab")
    assert reached == [
        "skip",
        "new-conversation",
        "a",
        "import-open",
        "sign-in-open",
        "conversation-menu",
        "memory-open",
        "thread",
        "act",
        "message",
    ]


async def test_the_skip_link_leads_to_the_message_box(page: Page, service: ScriptedService) -> None:
    await page.goto(BASE)
    await expect(page.get_by_label("Your message")).to_be_focused()
    await page.locator(".skip").focus()
    await expect(page.locator(".skip")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Your message")).to_be_focused()


async def test_tabs_are_moved_through_with_arrows(page: Page, service: ScriptedService) -> None:
    await page.goto(BASE)
    await page.get_by_role("button", name="Memory", exact=True).click()
    await page.get_by_role("tab", name="For this reply").focus()
    await page.keyboard.press("ArrowRight")
    kept = page.get_by_role("tab", name="What I remember")
    await expect(kept).to_be_focused()
    await expect(kept).to_have_attribute("aria-selected", "true")
    await expect(page.get_by_role("tabpanel", name="What I remember")).to_be_visible()


async def test_on_a_phone_panels_cover_and_give_back(open_context: OpenContext, service: ScriptedService) -> None:
    context = await open_context(**PHONE)
    await context.route("**/*", service.answer)
    page = await context.new_page()
    service.conversations = [conversation(last_seq=1)]
    service.messages = [message(1, "user", "Hi")]
    await page.goto(BASE)
    await expect(page.get_by_role("complementary", name="Conversations")).to_be_hidden()
    opener = page.get_by_role("button", name="Conversations", exact=True)
    await opener.tap()
    await expect(page.get_by_role("button", name="Close the list of conversations")).to_be_focused()
    assert await page.locator("#stage").evaluate("(node) => node.inert")
    await page.keyboard.press("Escape")
    await expect(opener).to_be_focused()
    assert not await page.locator("#stage").evaluate("(node) => node.inert")
    await opener.tap()
    await page.get_by_role("link", name="Pottery").tap()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Pottery")
    await expect(page.get_by_role("complementary", name="Conversations")).to_be_hidden()
    await page.get_by_role("button", name="Memory", exact=True).tap()
    await expect(page.get_by_role("complementary", name="Memory")).to_be_visible()
    await page.locator("#scrim").tap(position={"x": 100, "y": 20})
    await expect(page.get_by_role("complementary", name="Memory")).to_be_hidden()


async def test_a_thumb_finds_its_target(open_context: OpenContext, service: ScriptedService) -> None:
    """WCAG 2.2 target size: 24 px at least; the controls of the talk itself have 44."""
    context = await open_context(**PHONE)
    await context.route("**/*", service.answer)
    page = await context.new_page()
    await fill_page(page, service)
    small = await page.evaluate("""() => [...document.querySelectorAll("button, select, input, textarea, .conversation a")]
        .filter((node) => node.checkVisibility({ visibilityProperty: true }))
        .map((node) => [node.id || node.className, node.getBoundingClientRect()])
        .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)""")
    assert small == []
    for name in ("#send", "#rail-open", "#memory-open", "#message"):
        box = await page.locator(name).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, name


async def test_stillness_is_respected(open_context: OpenContext, service: ScriptedService) -> None:
    context = await open_context(reduced_motion="reduce")
    await context.route("**/*", service.answer)
    page = await context.new_page()
    await fill_page(page, service)
    assert await page.evaluate("document.getAnimations().length") == 0
