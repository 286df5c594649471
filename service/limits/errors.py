"""Why a caller must wait."""

from collections.abc import Mapping
from typing import Any

from service.errors import RapportError, UnavailableError


class RateLimitedError(RapportError):
    status, code, title = 429, "rate_limited", "A short break, please"

    def __init__(
        self, detail: str, *, retry_after: int, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        told = {**(headers or {}), "Retry-After": str(retry_after)}
        super().__init__(detail, headers=told, retry_after=retry_after, **options)


class TooManyStreamsError(RateLimitedError):
    code = "too_many_streams"


class LimitsConfigError(RapportError):
    """RATE_LIMITS can't be understood."""

    code = "start_refused"


class LimitsUnavailableError(UnavailableError):
    code = "limits_unavailable"
