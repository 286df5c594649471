"""What the public may read of the service's protocols, and what its operator reports once a year."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.auth.dependencies import Operator
from service.compliance.duty import yearly_report
from service.compliance.schemas import CountOut, ProtocolOut, ReportOut, ResourceOut, SafetyOut
from service.dependencies import Context
from service.problems import problems

router = APIRouter(tags=["safety"])


@router.get("/v1/safety/protocol", summary="What this service does about crises and minors")
async def read_protocol(context: Context) -> SafetyOut:
    """Public, as the laws in docs/compliance.md ask of companion services."""
    duty = context.duty
    protocols = [
        ProtocolOut(
            language=rules.language,
            protocol=rules.protocol,
            referral=rules.referral,
            resources=[ResourceOut(**resource) for resource in rules.resources],
            phrases=rules.phrases,
        )
        for rules in duty.rules
    ]
    return SafetyOut(
        protocols=protocols,
        disclosure_hours=duty.config.disclosure_every.total_seconds() / 3600,
        minor_break_hours=duty.config.minor_break_every.total_seconds() / 3600,
        suitability=duty.suitability,
    )


@router.get(
    "/v1/operator/reports/duty-of-care",
    summary="How often users were told what the law asks",
    responses=problems({403: "`operator_only`"}),
)
async def read_report(
    _operator: Operator, context: Context, year: Annotated[int, Query(ge=2025, le=2100)]
) -> ReportOut:
    async with context.database.system() as connection:
        counts = await yearly_report(connection, year)
    totals: dict[str, int] = {}
    for count in counts:
        totals[count.kind] = totals.get(count.kind, 0) + count.total
    months = [CountOut(month=c.month, kind=c.kind, protocol=c.protocol, total=c.total) for c in counts]
    return ReportOut(year=year, totals=totals, months=months)
