"""A node among several coordinators: it goes where it is sent and where somebody answers, with what it has loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from kit.fleets import Member, Owner
from kit.runner import run
from kit.tiny_gguf import write_tiny_gguf
from kit.waiting import until
from potluck.coordinator.members.store import open_file
from potluck.coordinator.swarm.tally import Incident
from potluck.node.kept_fleet import kept_fleet
from potluck.types import Audience, Coordinator, NodeState, Span
from potluck.wire.identity import Identity

WHOLE = Span(0, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of four layers."""
    folder = tmp_path_factory.mktemp("models")
    first, second = (
        write_tiny_gguf(folder / f"{seed}.gguf", "llama", layers=4, tokenizer="bpe", seed=seed) for seed in (1, 2)
    )
    return first, second


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@asynccontextmanager
async def pair(data: Path, *models: Path, audience: Audience = Audience.LOCAL) -> AsyncIterator[tuple[Member, Member]]:
    """Two coordinators of these models, or of this one, with one database."""
    with closing(open_file(data / "fleet.db")) as store:
        one, two = [await Member(model, store, audience).serve() for model in (models * 2)[:2]]
        one.knows(two.told)
        two.knows(one.told)
        try:
            yield one, two
        finally:
            for member in (one, two):
                await member.stop()


def node_of(member: Member) -> str:
    """The name of the real node at this coordinator."""
    [name] = [name for name, node in member.swarm.nodes.items() if node.name == "anna"]
    return name


def test_a_node_goes_where_it_is_sent_and_loads_nothing(models: tuple[Path, Path], data: Path) -> None:
    async def test() -> None:
        async with pair(data, models[0]) as (one, two):
            owner = Owner(one.url)
            async with owner.running(), one.with_twin(WHOLE):
                await until(lambda: one.swarm.served() == [2] * 4)
                one.gateway.redirect(node_of(one), two.told)
                await owner.serves(two.url)
                await until(lambda: two.swarm.served() == [1] * 4)
                assert [node.name for node in one.swarm.nodes.values()] == ["twin"]
                assert one.swarm.tally.incidents[Incident.LOST] == 0
            assert owner.count("Loading layers") == 1
            assert owner.count("Another coordinator needs this node more: it moves there.") <= 1
            assert owner.count(f"{one.url} sends this node to {two.url}, which lacks layers.") == 1
            assert not two.swarm.nodes

    run(test())


def test_a_node_that_is_needed_is_not_sent_away(models: tuple[Path, Path], data: Path) -> None:
    async def test() -> None:
        async with pair(data, models[0]) as (one, two):
            owner = Owner(one.url)
            async with owner.running():
                await owner.serves(one.url)
                await until(lambda: one.swarm.served() == [1] * 4)
                one.gateway.redirect(node_of(one), two.told)
                assert [node.state for node in one.swarm.nodes.values()] == [NodeState.READY]

    run(test())


def test_a_node_that_is_sent_to_another_model_loads_it_from_there(models: tuple[Path, Path], data: Path) -> None:
    async def test() -> None:
        async with pair(data, *models) as (one, two):
            owner = Owner(one.url)
            async with owner.running(), one.with_twin(WHOLE):
                await until(lambda: one.swarm.served() == [2] * 4)
                one.gateway.redirect(node_of(one), two.told)
                await owner.serves(two.url)
                await until(lambda: two.swarm.served() == [1] * 4)
            assert owner.count("Loading layers") == 2
            assert owner.count(f"MiB from {two.url}") == 1

    run(test())


@pytest.mark.parametrize("why", ["it is refused", "its key is another", "nobody is there"])
def test_a_node_that_cannot_be_there_comes_back(models: tuple[Path, Path], data: Path, why: str) -> None:
    async def test() -> None:
        async with pair(data, models[0]) as (one, two):
            owner, there = Owner(one.url), two.told
            if why == "it is refused":
                two.swarm.shun(owner.config.identity.public, "it lied")
            elif why == "its key is another":
                there = Coordinator(two.url, Identity.fresh().public)
            else:
                await two.stop()
            one.knows()
            async with owner.running(), one.with_twin(WHOLE):
                await until(lambda: one.swarm.served() == [2] * 4)
                one.gateway.redirect(node_of(one), there)
                await owner.serves(one.url, 2)
            assert owner.count("Loading layers") == 1
            assert owner.count(f"This node cannot be at {two.url}") == (why != "nobody is there")
            assert not two.swarm.nodes

    run(test())


def test_a_node_whose_coordinator_is_lost_is_known_to_another(models: tuple[Path, Path], data: Path) -> None:
    async def test() -> None:
        async with pair(data, models[0], audience=Audience.PRIVATE) as (one, two):
            invite, _ = one.office.invites.create(lifetime_s=None)
            owner = Owner(one.url, invite=invite)
            async with owner.running():
                await owner.serves(one.url)
                assert kept_fleet(one.url) == (two.told,)
                await one.stop()
                await owner.serves(two.url)
                await until(lambda: two.swarm.served() == [1] * 4)
                [node] = two.swarm.nodes.values()
                assert node.key == owner.config.identity.public
            assert owner.count("Loading layers") == 1
            assert owner.count(f"trying {two.url}.") == 1
            again = Owner(one.url, identity=owner.config.identity)
            async with again.running():
                await again.serves(two.url)

    run(test())


def test_a_node_hears_when_the_fleet_changes(models: tuple[Path, Path], data: Path) -> None:
    async def test() -> None:
        async with pair(data, models[0]) as (one, two):
            one.knows()
            owner = Owner(one.url)
            async with owner.running():
                await owner.serves(one.url)
                assert kept_fleet(one.url) == ()
                one.knows(two.told)
                one.gateway.tell_fleet()
                await until(lambda: kept_fleet(one.url) == (two.told,))
                await one.stop()
                await owner.serves(two.url)

    run(test())
