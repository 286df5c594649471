"""Who one is, which conversation, importing; and what the policy holds back."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.fixtures.browser import Watch
from tests.service.web.scripted import (
    BASE,
    C1,
    Answer,
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


async def test_a_token_in_the_address_is_used_once_and_leaves_no_trace(page: Page, service: ScriptedService) -> None:
    await page.goto(f"{BASE}/#token=token-of-nora")
    await expect(page.locator("#who-name")).to_have_text("nora")
    assert page.url in {f"{BASE}/", f"{BASE}/#/"}
    assert [call.body for call in service.made("POST", "/v1/session")] == [{"token": "token-of-nora"}]
    kept = await page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])"
    )
    assert "token-of-nora" not in kept
    await page.go_back()
    assert "token" not in page.url


async def test_a_bad_token_is_told_and_leaves_a_guest(page: Page, service: ScriptedService) -> None:
    service.on(
        "POST",
        "/v1/session",
        problem(401, "token_expired", "The token has expired", "Ask for a new one."),
        reply(service.who),
    )
    await page.goto(f"{BASE}/#token=old")
    await expect(page.locator("#banner")).to_contain_text("That token was not accepted. Ask for a new one.")
    await expect(page.locator("#who-name")).to_have_text("Guest")


async def test_signing_in_by_dialog_and_out(page: Page, service: ScriptedService) -> None:
    await page.goto(BASE)
    await page.get_by_role("button", name="Sign in with a token").click()
    await expect(page.get_by_label("Token", exact=True)).to_be_focused()
    await page.get_by_label("Token", exact=True).fill("Your token: token-of-nora\n")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.locator("#who-name")).to_have_text("nora")
    await expect(page.get_by_role("button", name="Sign in with a token")).to_be_hidden()
    service.who = {"subject": "anon-2", "expires_at": "", "anonymous": True}
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator("#who-name")).to_have_text("Guest")
    assert len(service.made("DELETE", "/v1/session")) == 1


async def test_a_refused_token_keeps_the_dialog(page: Page, service: ScriptedService) -> None:
    await page.goto(BASE)
    await expect(page.locator("#who-name")).to_have_text("Guest")
    service.on(
        "POST",
        "/v1/session",
        problem(401, "token_invalid", "The token is not valid", "It was made for another service."),
    )
    await page.get_by_role("button", name="Sign in with a token").click()
    await page.get_by_label("Token", exact=True).fill("x")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("alert").filter(has_text="The token is not valid")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Sign in with a token")).to_be_focused()


async def test_an_ended_session_says_so(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation()]
    service.on_send(
        problem(401, "token_expired", "The token has expired", ""),
        stream(accepted(), delta("1-1", "Back."), completed("1-2")),
    )
    await page.goto(f"{BASE}/#/c/{C1}")
    await page.get_by_label("Your message").fill("Hello?")
    await page.keyboard.press("Enter")
    await expect(page.locator("#banner")).to_contain_text("Your session has ended")
    await expect(page.locator(".mine .words")).to_have_text("Hello?")


async def test_rename_lock_and_delete(page: Page, service: ScriptedService) -> None:
    path = f"/v1/conversations/{C1}"
    service.conversations = [conversation()]
    service.on("PATCH", path, reply(conversation(title="Clay")))
    service.on("POST", f"{path}/lock", reply(conversation(title="Clay", lock={"reason": "sleep", "epoch": 1})))
    service.on("DELETE", f"{path}/lock", reply(conversation(title="Clay")))
    service.on("DELETE", path, Answer(204))
    await page.goto(f"{BASE}/#/c/{C1}")
    menu = page.get_by_role("button", name="This conversation")
    await menu.click()
    await page.get_by_role("button", name="Rename…").click()
    await page.get_by_label("Name", exact=True).fill("Clay")
    await page.get_by_role("button", name="Rename", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Clay")
    await expect(page.get_by_role("link", name="Clay")).to_have_attribute("aria-current", "page")
    await menu.click()
    await page.get_by_role("button", name="Lock…").click()
    await page.get_by_label("Why (may stay empty)").fill("sleep")
    await page.get_by_role("button", name="Lock", exact=True).click()
    await expect(page.locator("#subtitle")).to_have_text("With Maren · locked: sleep")
    await menu.click()
    await page.get_by_role("button", name="Unlock").click()
    await expect(page.locator("#subtitle")).to_have_text("With Maren")
    await menu.click()
    await page.get_by_role("button", name="Delete…").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("link", name="Clay")).to_have_count(0)
    await expect(page.get_by_role("heading", level=1)).to_have_text("New conversation")
    assert [call.body for call in service.made("PATCH", path)] == [{"title": "Clay"}]
    assert [call.body for call in service.made("POST", f"{path}/lock")] == [{"reason": "sleep"}]


async def test_a_new_conversation_is_made_as_wished(page: Page, service: ScriptedService) -> None:
    await page.goto(BASE)
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_label("Your companion's name").fill("Noor")
    await page.get_by_label("Who they are").fill("Loves the sea.")
    await page.get_by_label("Mature").check()
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("#subtitle")).to_have_text("With Noor · mature route")
    await expect(page.get_by_label("Your message")).to_be_focused()
    [call] = service.made("POST", "/v1/conversations")
    assert call.body["route"] == "mature"
    assert call.body["companion"] == {"name": "Noor", "persona": "Loves the sea."}


async def test_an_unknown_conversation_in_the_address(page: Page, service: ScriptedService) -> None:
    await page.goto(f"{BASE}/#/c/01937b3e-0000-7000-8000-00000000dead")
    await expect(page.locator("#banner")).to_contain_text("That conversation is not here.")
    await expect(page.get_by_role("heading", name="A companion that remembers.")).to_be_visible()


async def top_of(page: Page, selector: str) -> float:
    box = await page.locator(selector).bounding_box()
    assert box is not None
    return box["y"]


async def test_earlier_messages_leave_the_eye_where_it_is(page: Page, service: ScriptedService) -> None:
    service.conversations = [conversation(last_seq=120)]
    service.messages = [
        message(seq, "user" if seq % 2 else "assistant", f"Message {seq}. " * 8) for seq in range(1, 121)
    ]
    await page.goto(f"{BASE}/#/c/{C1}")
    await expect(page.locator("#m-120")).to_be_in_viewport()
    await page.locator("#thread").evaluate("(node) => node.scrollTo(0, 0)")
    before = await top_of(page, "#m-71")
    await page.get_by_role("button", name="Show earlier messages").click()
    await expect(page.locator(".message")).to_have_count(100)
    # the line above the list, with its button, is all that may come or go
    assert abs(await top_of(page, "#m-71") - before) < 60
    await page.get_by_role("button", name="Show earlier messages").click()
    await expect(page.locator(".message")).to_have_count(120)
    await expect(page.get_by_role("button", name="Show earlier messages")).to_be_hidden()
    sequence = await page.locator(".message").evaluate_all("(nodes) => nodes.map((node) => Number(node.id.slice(2)))")
    assert sequence == list(range(1, 121))


async def test_importing_shows_what_became_of_the_file(page: Page, service: ScriptedService, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"speaker": "A", "text": "hi"}\nbroken\n')
    result = {
        "conversation_id": C1,
        "imported": 1,
        "duplicates": 0,
        "skipped": 2,
        "broken": 120,
        "already_imported": False,
    }
    errors = [{"line": line, "reason": "not JSON"} for line in range(2, 102)]
    service.on("POST", "/v1/conversations/import", reply({**result, "errors": errors}, 201))
    service.on("PATCH", f"/v1/conversations/{C1}", reply(conversation(title="talk", last_seq=1)))
    await page.goto(BASE)
    await page.get_by_role("button", name="Import a conversation").click()
    service.conversations = [conversation(title="", last_seq=1)]
    await page.get_by_label("File").set_input_files(path)
    await page.get_by_role("button", name="Import", exact=True).click()
    await expect(page.locator("#import-summary")).to_have_text(
        "1 message imported, 2 left out, 120 lines not readable."
    )
    rows = page.locator("#import-errors li")
    await expect(rows).to_have_count(101)
    await expect(rows.first).to_have_text("Line 2: not JSON")
    await expect(rows.last).to_have_text("and 20 more")
    [call] = service.made("POST", "/v1/conversations/import")
    assert call.query["format"] == "auto"
    await page.get_by_role("button", name="Open it").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("talk")
    # the file had no title, so that its name became one
    assert [call.body for call in service.made("PATCH", f"/v1/conversations/{C1}")] == [{"title": "talk"}]


async def test_a_refused_import_says_why(page: Page, service: ScriptedService, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text("broken\n")
    service.on(
        "POST",
        "/v1/conversations/import",
        problem(422, "import_format", "The file can't be read", "Its first line is no JSON."),
    )
    await page.goto(BASE)
    await page.get_by_role("button", name="Import a conversation").click()
    await page.get_by_label("File").set_input_files(path)
    await page.get_by_role("button", name="Import", exact=True).click()
    await expect(page.locator("#dialog-import .form-error")).to_have_text(
        "The file can't be read: Its first line is no JSON."
    )


async def test_an_insecure_origin_can_send_too(page: Page, service: ScriptedService) -> None:
    """A phone on the home network has no TLS, and so no crypto.randomUUID."""
    await page.add_init_script("delete Crypto.prototype.randomUUID")
    service.on_send(stream(accepted(), delta("1-1", "Yes."), completed("1-2")))
    await page.goto(BASE)
    await page.get_by_label("Your message").fill("Hello?")
    await page.keyboard.press("Enter")
    await expect(page.locator(".theirs .words")).to_have_text("Yes.")
    assert len(service.sent()[0]["client_message_id"]) == 32


async def test_the_policy_holds_against_what_gets_in(page: Page, service: ScriptedService, watch: Watch) -> None:
    """Should anything of a message ever become markup, it still can't run, load or send anything."""
    await page.goto(BASE)
    await expect(page.locator("#who-name")).to_have_text("Guest")
    refused = await page.evaluate("""async () => {
      const refused = [];
      try { document.body.innerHTML = "<b>x</b>"; } catch (error) { refused.push(error.name); }
      const script = document.createElement("script");
      try { script.textContent = "window.hit = 1"; document.body.append(script); } catch (error) { refused.push(error.name); }
      await fetch("https://evil.example/").catch((error) => refused.push(error.name));
      const image = new Image();
      await new Promise((done) => { image.onerror = done; image.src = "https://evil.example/p.png"; });
      return [refused, window.hit ?? null];
    }""")
    assert refused == [["TypeError", "TypeError", "TypeError"], None]
    assert service.foreign == []
    violations = await page.evaluate("window.violations")
    assert len(violations) >= 3
    # these were asked for; the fixture counts all others
    await page.evaluate("window.violations.length = 0")
    watch.errors.clear()
