"""Why a statement about somebody's age is not taken.

RapportError
├── AssertionInvalidError 422       age_assertion_invalid       not signed by the app's backend, or not whole
├── AssertionStaleError 422         age_assertion_stale         older than ten minutes, or expired
├── AssertionNotYoursError 403      age_assertion_not_yours     it speaks of another user
├── MethodNotAcceptedError 403      age_method_not_accepted     the level asks for a better proof
├── BelowMinimumAgeError 403        below_minimum_age
├── AssuranceDisabledError 403      age_assurance_disabled      no key to check assertions with
├── ReplayedError 409               age_assertion_replayed
└── BirthDateGivenError 409         birth_date_fixed
"""

from service.errors import ConflictError, ForbiddenError, InvalidRequestError


class AssertionInvalidError(InvalidRequestError):
    code = "age_assertion_invalid"


class AssertionStaleError(InvalidRequestError):
    code = "age_assertion_stale"


class AssertionNotYoursError(ForbiddenError):
    code = "age_assertion_not_yours"


class MethodNotAcceptedError(ForbiddenError):
    code = "age_method_not_accepted"


class BelowMinimumAgeError(ForbiddenError):
    code = "below_minimum_age"


class AssuranceDisabledError(ForbiddenError):
    code = "age_assurance_disabled"


class ReplayedError(ConflictError):
    code = "age_assertion_replayed"


class BirthDateGivenError(ConflictError):
    code = "birth_date_fixed"
