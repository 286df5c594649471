"""What can go wrong, as the API's document tells it."""

from collections.abc import Mapping

Responses = dict[int | str, dict[str, object]]

ALWAYS = {
    400: "`bad_request`: the body is not UTF-8, or the Host is not ours",
    401: "`token_missing`, `token_malformed`, `token_expired`, `token_invalid` or `token_revoked`",
    429: "`rate_limited`: wait for `Retry-After`",
    503: "`store_unavailable`, `keys_unavailable` or `limits_unavailable`: try again",
}


def problems(texts: Mapping[int, str] | None = None, *, signed_in: bool = True) -> Responses:
    """The documented problems of a route: those of every route, and its own."""
    own = {code: text for code, text in ALWAYS.items() if signed_in or code != 401} | dict(texts or {})
    return {
        code: {"description": text, "content": {"application/problem+json": {}}} for code, text in sorted(own.items())
    }
