"""Paths whose last name a route behind them, which has a parameter there, would take for an id."""

from fastapi import APIRouter

from service.errors import RapportError


class OtherMethodError(RapportError):
    status, code, title = 405, "method_not_allowed", "Method Not Allowed"


def takes_only_post(router: APIRouter, path: str) -> None:
    """Answer other methods with 405, as everywhere else; to be called before the route with the parameter is made."""

    async def refuse() -> None:
        raise OtherMethodError(f"{router.prefix}{path} takes POST only.", headers={"Allow": "POST"})

    router.add_api_route(path, refuse, methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
