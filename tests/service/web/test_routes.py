"""The files of the page and the headers they are sent with."""

import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.web.routes import load_assets, router


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def directives(policy: str) -> dict[str, str]:
    return {part.split(" ", 1)[0]: part.split(" ", 1)[-1] for part in policy.split("; ")}


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/base.css", "/static/icon.svg", "/static/none.js"])
def test_every_answer_carries_the_policy(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = directives(headers["content-security-policy"])
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/static/app.js", "text/javascript; charset=utf-8"),
        ("/static/base.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ],
)
def test_media_types(client: TestClient, path: str, media: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/static/app.js")
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}', "*"):
        again = client.get("/static/app.js", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/static/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_answers_like_get_without_a_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(client.get("/").content)


@pytest.mark.parametrize(
    "name",
    [
        "../routes.py",
        "..%2froutes.py",
        "%2e%2e/routes.py",
        "....//routes.py",
        "/etc/passwd",
        "",
        ".",
        "app.js/",
        "app.js%00",
        "APP.JS",
    ],
)
def test_nothing_but_the_pages_files_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert b"APIRouter" not in answer.content


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    page = load_assets()["index.html"].body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []


def test_the_page_names_no_other_host() -> None:
    for name, asset in load_assets().items():
        # the two comments that cite the specification, and the SVG namespace, are no requests
        found = set(re.findall(r"https?://([^/\s\"')]+)", asset.body.decode())) - {"www.w3.org", "html.spec.whatwg.org"}
        assert found == set(), name


def test_every_file_that_the_page_names_exists() -> None:
    assets = load_assets()
    page = assets["index.html"].body.decode()
    named = set(re.findall(r'(?:src|href)="/static/([^"]+)"', page))
    for name, asset in assets.items():
        if name.endswith(".js"):
            named |= set(re.findall(r'from "\./([^"]+)"', asset.body.decode()))
    assert named <= set(assets)
    assert {name for name in assets if name != "index.html"} == named


def test_no_sink_that_parses_markup() -> None:
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setHTML"
    )
    for name, asset in load_assets().items():
        if name.endswith(".js"):
            assert sinks.findall(asset.body.decode()) == [], name
