import pytest

from potluck.errors import PotluckError
from potluck.planning.inventory import DEFAULT_GB_PER_S, parse_machines, parse_memory
from potluck.planning.machine import Machine


@pytest.mark.parametrize(
    ("text", "size"), [("6G", 6 << 30), ("800M", 800 << 20), ("1.5 GiB", 3 << 29), ("12kb", 12 << 10), ("7", 7)]
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


def test_machines() -> None:
    assert parse_machines(["8G", "16G@40.5x2"], 0.01, 1e6) == [
        Machine("1: 8G", 8 << 30, 1e9 * DEFAULT_GB_PER_S, 0.01, 1e6),
        Machine("2: 16G@40.5", 16 << 30, 40.5e9, 0.01, 1e6),
        Machine("3: 16G@40.5", 16 << 30, 40.5e9, 0.01, 1e6),
    ]


@pytest.mark.parametrize("text", ["", "8G@", "8Gx", "8G@0", "8Gx0", "8G@4x", "8G x 2 y", "@4", "8Gx2@4", "8Gx99999"])
def test_what_is_no_machine_is_told(text: str) -> None:
    with pytest.raises(PotluckError, match="is not a machine: write it as 8G"):
        parse_machines([text])


@pytest.mark.parametrize("text", ["lots", "-8G", "8Q", "8G8"])
def test_what_is_no_memory_is_told(text: str) -> None:
    with pytest.raises(PotluckError, match="is not an amount of memory"):
        parse_machines([text])
