"""The interactive documentation in a real browser: complete, usable, and alone with its service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator

from tests.e2e.browser import Visit, needs_chromium, visiting
from tests.service import ROOT, Service

pytestmark = needs_chromium
STAR = ROOT / "models" / "shapes" / "samples" / "star.png"
EXPLAIN = "#operations-explanations-explain"


@pytest.fixture(scope="module")
def visit(service: Service) -> Iterator[Visit]:
    with visiting() as tab:
        yield tab


@pytest.fixture
def explain(visit: Visit, service: Service) -> Iterator[Locator]:
    """The operation that explains, ready to be tried out."""
    visit.page.goto(f"{service.url}/docs")
    operation = visit.page.locator(EXPLAIN)
    operation.locator(".opblock-summary-control").click()
    operation.locator(".try-out__btn").click()
    yield operation
    assert visit.hosts == {urlsplit(service.url).netloc}
    assert not visit.complaints


def body_as(operation: Locator, content_type: str) -> None:
    operation.locator(".opblock-section-request-body select.content-type").select_option(
        content_type
    )


def tried(operation: Locator) -> Any:
    """The status of the answer, and the box that shows it."""
    operation.locator("button.execute").click()
    answer = operation.locator(".live-responses-table .response")
    answer.wait_for()
    return answer.locator(".response-col_status").inner_text().split()[0], answer


def test_the_page_lists_everything_in_order(visit: Visit, service: Service) -> None:
    visit.page.goto(f"{service.url}/")
    visit.page.locator(EXPLAIN).wait_for()
    with service.client() as client:
        document = client.get("/openapi.json").json()
    headings = visit.page.locator(".opblock-tag").evaluate_all("all => all.map(e => e.dataset.tag)")
    assert headings == [tag["name"] for tag in document["tags"]]
    paths = (*document["paths"].values(), *document.get("webhooks", {}).values())
    operations = sum(len(path) for path in paths)
    assert visit.page.locator(".opblock").count() == operations
    assert f"{service.url}/v1/explanations" in visit.page.locator(".info .description").inner_text()
    schemas = visit.page.locator("section.models")
    assert "is-open" not in (schemas.get_attribute("class") or "")
    assert visit.hosts == {urlsplit(service.url).netloc}
    assert not visit.complaints


def test_json_as_it_stands_there(explain: Locator) -> None:
    status, answer = tried(explain)
    assert status == "200"
    assert "succeeded" in answer.inner_text()


def test_a_form_with_a_file(explain: Locator) -> None:
    body_as(explain, "multipart/form-data")
    files = explain.locator("tr[data-property-name=input] input[type=file]")
    if not files.count():
        explain.locator("tr[data-property-name=input] button", has_text="Add").first.click()
    files.set_input_files(STAR)
    explain.locator("tr[data-property-name=model] input[type=text]").fill("shapes")
    for name in ("request", "params", "method_options"):  # JSON is typed, no file
        assert explain.locator(f"tr[data-property-name={name}] input[type=text]").count() == 1
    assert explain.locator("tr[data-property-name=mask] input[type=file]").count() == 1
    asked = '{"metrics": ["deletion"], "steps": 3}'
    explain.locator("tr[data-property-name=evaluate] input[type=text]").fill(asked)
    status, answer = tried(explain)
    assert status == "200", answer.inner_text()
    assert "deletion" in answer.inner_text()


def test_a_raw_file_and_its_picture(explain: Locator, tmp_path: Path) -> None:
    options = explain.locator("tr[data-param-in=query]")
    assert options.count() == 1, "options of a raw body stand in the way of the other two"
    body_as(explain, "image/png")
    assert options.count() > 20
    explain.locator("tr[data-param-name=model] input").fill("shapes")
    explain.locator("tr[data-param-name=as] select").select_option("png")
    explain.locator(".opblock-section-request-body input[type=file]").set_input_files(STAR)
    status, answer = tried(explain)
    assert status == "200", answer.inner_text()
    picture = answer.locator("img")
    picture.wait_for()
    picture.evaluate("picture => picture.decode()")
    assert picture.evaluate("picture => picture.naturalWidth") >= 384
