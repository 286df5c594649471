"""What can go wrong, as the API's document tells it."""

from collections.abc import Mapping

from pydantic import BaseModel, Field

Responses = dict[int | str, dict[str, object]]


class Problem(BaseModel):
    """Every error of this API (RFC 9457). `code` is stable; `detail` says what to do."""

    type: str = Field(examples=["urn:rapport:problem:conversation_not_found"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["conversation_not_found"])


ALWAYS = {
    400: "`bad_request`: the body is not UTF-8, or the Host is not ours",
    401: "`token_missing`, `token_malformed`, `token_expired`, `token_invalid` or `token_revoked`",
    422: "`invalid_request`: `errors` names the fields",
    429: "`rate_limited`: wait for `Retry-After`",
    503: "`store_unavailable`, `keys_unavailable` or `limits_unavailable`: nothing was written; try again",
}


def problems(texts: Mapping[int, str] | None = None, *, openai: bool = False) -> Responses:
    """The documented problems of a route: those of every route, and its own; `openai` for those in OpenAI's shape."""
    told: dict[str, object] = {"content": {"application/json": {}}}
    if not openai:
        told = {"model": Problem, "content": {"application/problem+json": {}}}
    return {code: {**told, "description": text} for code, text in sorted((ALWAYS | dict(texts or {})).items())}
