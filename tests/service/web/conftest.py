"""Pages whose service is a script: every answer is decided by the test, every request is on record."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.fixtures.browser import OpenContext
from tests.service.web.scripted import BASE, ScriptedService


@pytest_asyncio.fixture(loop_scope="module")
async def service() -> ScriptedService:
    return ScriptedService()


@pytest_asyncio.fixture(loop_scope="module")
async def page(open_context: OpenContext, service: ScriptedService) -> AsyncIterator[Page]:
    """A page that has not gone anywhere yet, and whose requests `service` answers."""
    context = await open_context()
    await context.route("**/*", service.answer)
    yield await context.new_page()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def blank(chromium: Browser) -> AsyncIterator[Page]:
    """An empty document under the page's own policy, to call its modules from; one for all tests of a module."""
    context = await chromium.new_context()
    await context.route("**/*", ScriptedService().answer)
    page = await context.new_page()
    await page.goto(f"{BASE}/blank")
    yield page
    await context.close()
