"""What request handlers depend on."""

from typing import Annotated, cast

from fastapi import Depends, Request

from service.runtime import Runtime


def runtime_of(request: Request) -> Runtime:
    return cast("Runtime", request.app.state.runtime)


Context = Annotated[Runtime, Depends(runtime_of)]
