"""How much a caller may ask for, shared by all instances."""

from service.limits.addresses import address_of
from service.limits.config import LimitsConfig, Window, parse_windows
from service.limits.errors import LimitsUnavailableError, RateLimitedError, TooManyStreamsError
from service.limits.limiter import Admission, Allowance, Limits

__all__ = [
    "Admission",
    "Allowance",
    "Limits",
    "LimitsConfig",
    "LimitsUnavailableError",
    "RateLimitedError",
    "TooManyStreamsError",
    "Window",
    "address_of",
    "parse_windows",
]
