"""What request handlers depend on."""

from typing import Annotated, cast

from fastapi import Depends, Request

from service.runtime import Runtime


async def runtime_of(request: Request) -> Runtime:  # not a plain function: those are run in a thread each
    return cast("Runtime", request.app.state.runtime)


Context = Annotated[Runtime, Depends(runtime_of)]
