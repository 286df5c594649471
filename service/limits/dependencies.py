"""Limits of routes that answer at once, as FastAPI dependencies of their decorators.

Streams hold a place until they end and are admitted by their handlers (`Limits.admit`); signing in counts by what is shown.
"""

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request

from service.auth.dependencies import Caller
from service.dependencies import Context
from service.limits.addresses import address_of


def _limited(kind: str) -> Callable[[Request, Caller, Context], Awaitable[None]]:
    async def check(request: Request, caller: Caller, context: Context) -> None:
        await context.limits.check(caller, address_of(request), kind)

    return check


READ = Depends(_limited("read"))
WRITE = Depends(_limited("write"))
SEARCH = Depends(_limited("search"))
IMPORT = Depends(_limited("import"))
AGE = Depends(_limited("age"))
