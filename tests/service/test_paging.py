"""A cursor leads to where it was made, whatever has its form is one, and what an older release gave is still taken."""

import base64
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.app import create_app
from service.errors import InvalidRequestError
from service.paging import FORM, decode_cursor, encode_cursor
from service.settings import Settings


@given(st.datetimes(max_value=datetime(9000, 1, 1)), st.uuids())  # noqa: DTZ001  hypothesis adds no zone to a bound
def test_a_cursor_is_the_row_it_was_made_of(at: datetime, item_id: UUID) -> None:
    at = at.replace(tzinfo=UTC)
    assert decode_cursor(encode_cursor(at, item_id)) == (at, item_id)


@given(st.from_regex(FORM, fullmatch=True).filter(lambda text: not text.endswith("\n")))
def test_whatever_has_the_form_of_one_is_one(cursor: str) -> None:
    found = decode_cursor(cursor)
    assert found is not None
    assert encode_cursor(*found) == cursor


def test_what_an_older_release_gave_goes_on() -> None:
    at, item_id = datetime(2026, 11, 22, 10, 30, tzinfo=UTC), uuid4()
    old = base64.urlsafe_b64encode(f"{at.isoformat()}|{item_id}".encode()).decode().rstrip("=")
    assert decode_cursor(old) == (at, item_id)
    assert decode_cursor(None) is None


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "🦊", "0" * 48, "4" + "0" * 14 + "-" + "0" * 32, "0" * 15 + "-"])
def test_what_is_none_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_cursor(cursor)


def test_the_document_names_what_the_deployment_knows() -> None:
    schemas = create_app(Settings()).openapi()["components"]["schemas"]
    for schema in ("NewConversation", "NewMemory"):
        assert schemas[schema]["properties"]["route"]["enum"] == ["general", "mature"]
    assert schemas["DecisionIn"]["properties"]["level"]["enum"] == ["mature"]
    texts = [one for one in schemas["RevocationIn"]["properties"]["level"]["anyOf"] if one["type"] == "string"]
    assert [one["enum"] for one in texts] == [["mature"]]
