"""What request handlers depend on."""

from collections.abc import Awaitable, Callable
from typing import Annotated, cast

from fastapi import Depends, Request

from service.auth.dependencies import Caller
from service.limits import address_of
from service.runtime import Runtime


async def runtime_of(request: Request) -> Runtime:  # not a plain function: those are run in a thread each
    return cast("Runtime", request.app.state.runtime)


Context = Annotated[Runtime, Depends(runtime_of)]


def _limited(kind: str) -> Callable[[Request, Caller, Context], Awaitable[None]]:
    async def check(request: Request, caller: Caller, context: Context) -> None:
        await context.limits.check(caller, address_of(request), kind)

    return check


# for routes that answer at once; streams hold a place until they end and are admitted by their handlers (`Limits.admit`)
READ = Depends(_limited("read"))
WRITE = Depends(_limited("write"))
SEARCH = Depends(_limited("search"))
IMPORT = Depends(_limited("import"))
AGE = Depends(_limited("age"))
