"""Fixtures of all tests. Fast tests run first; those with processes of their own last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kit import apart, postgres
from kit.groups import groups
from kit.marks import MEANINGS, mark_and_sort
from potluck.local import demo_model

settings.register_profile("shared", deadline=None)  # other programs of the machine decide how long an example takes
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="Run the long tests in full, not in a smaller dose.")


def pytest_configure(config: pytest.Config) -> None:
    for mark, meaning in MEANINGS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    apart.register(config, groups())
    if apart.CHILD not in os.environ:
        config.pluginmanager.import_plugin("kit.report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_and_sort(items)


@pytest.fixture(scope="session")
def nightly(request: pytest.FixtureRequest) -> bool:
    """Whether the long tests run in full."""
    return bool(request.config.getoption("--nightly"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the test run's own, and a folder for keys; its processes inherit them."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["POTLUCK_CACHE"] = str(folder)
    os.environ["POTLUCK_DATA"] = str(tmp_path_factory.mktemp("data"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["POTLUCK_ON_BATTERY"] = "1"  # whatever machine runs the tests
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    with postgres.server(programs) as server:
        yield server


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, real weights."""
    return demo_model()


@pytest.fixture(scope="session")
def alice() -> str:
    """A text of a little over 1,000 tokens."""
    return (Path(__file__).parent / "data" / "alice.txt").read_text()
