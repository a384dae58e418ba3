"""A library for each test."""

from __future__ import annotations

import pytest

from tests.integration.revert.books import Library, make_library
from tests.trail import Trail


@pytest.fixture
def library(trail: Trail) -> Library:
    return make_library(trail)
