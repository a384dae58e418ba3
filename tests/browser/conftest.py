"""A browser and a running demo for the tests that look at it as a person does."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright
from werkzeug.serving import make_server

from demo.app import create_app
from demo.commands import prepare
from demo.models import db

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Flask
    from playwright.sync_api import Browser, Page

    from tests.server import Server

FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
TIMEOUT = 15_000  # milliseconds


def find_chromium() -> str | None:
    """The system's Chromium; None leaves the choice to Playwright's own download."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = (shutil.which(name) for name in names)
    return os.environ.get("CHROMIUM") or next((path for path in found if path), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Fails where there is none: these tests are never skipped."""
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page with a session of its own; an error in the page's JavaScript fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def demo_app(server: Server) -> Iterator[Flask]:
    """The demo with its data, on a database of its own."""
    with server.database(server.template(prepare, prepare_demo)) as url:
        app = create_app(url, secret_key="test")
        yield app
        close(app)


def prepare_demo(url: str) -> None:
    """Load the demo into the database."""
    app = create_app(url, secret_key="test")
    prepare(app, lambda line: None)
    close(app)


def close(app: Flask) -> None:
    """Close the application's connections."""
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


def in_one_piece(app: WSGIApplication) -> WSGIApplication:
    """Send each answer at once.

    Where a browser goes away in the midst of a file, werkzeug's server leaves the file open, and
    the warning about it fails a test.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        parts = app(environ, start_response)
        try:
            return [b"".join(parts)]
        finally:
            getattr(parts, "close", lambda: None)()

    return answer


@pytest.fixture
def desk(demo_app: Flask) -> Iterator[str]:
    """The address of the demo, served for real."""
    server = make_server("127.0.0.1", 0, in_one_piece(demo_app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
