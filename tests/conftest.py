"""Fixtures of all tests. Fast tests run first; those with processes of their own last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from kit import apart
from kit.groups import groups
from potluck.local import demo_model

settings.register_profile("shared", deadline=None)  # other programs of the machine decide how long an example takes
settings.load_profile("shared")

SLOW = ("test_transformers.py", "test_families.py", "test_exactness.py", "test_real_weights.py", "e2e")


def pytest_configure(config: pytest.Config) -> None:
    apart.register(config, groups())
    if apart.CHILD not in os.environ:
        config.pluginmanager.import_plugin("kit.report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((rank for rank, name in enumerate(SLOW, 1) if name in item.nodeid), 0))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the test run's own, and a folder for keys; its processes inherit them."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["POTLUCK_CACHE"] = str(folder)
    os.environ["POTLUCK_DATA"] = str(tmp_path_factory.mktemp("data"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, real weights."""
    return demo_model()


@pytest.fixture(scope="session")
def alice() -> str:
    """A text of a little over 1,000 tokens."""
    return (Path(__file__).parent / "data" / "alice.txt").read_text()
