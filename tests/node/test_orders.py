from __future__ import annotations

import os
from pathlib import Path

import pytest

from potluck.node.neighbours import local_nodes, orders_path, registered
from potluck.node.orders import Order, Orders, give


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


def test_orders_come_once_and_in_their_order(orders: Orders, tmp_path: Path) -> None:
    assert orders.fresh() == []
    give(Order.PAUSE, os.getpid(), tmp_path)
    give(Order.LEAVE, os.getpid(), tmp_path)
    assert orders.fresh() == [Order.PAUSE, Order.LEAVE]
    assert orders.fresh() == []
    give(Order.PAUSE, os.getpid(), tmp_path)
    assert orders.fresh() == [Order.PAUSE]


def test_others_orders_are_not_ours(orders: Orders, tmp_path: Path) -> None:
    give(Order.PAUSE, os.getpid() + 1, tmp_path)
    assert orders.fresh() == []


def test_an_order_counts_when_its_line_is_complete(orders: Orders, tmp_path: Path) -> None:
    path = orders_path(os.getpid(), tmp_path)
    path.write_bytes(b"dance\npause\nres")
    assert orders.fresh() == [Order.PAUSE]
    path.write_bytes(b"dance\npause\nresume\n\xff\n")
    assert orders.fresh() == [Order.RESUME]


def test_orders_are_heard_after_the_folder_was_cleaned_up(orders: Orders, tmp_path: Path) -> None:
    give(Order.RESUME, os.getpid(), tmp_path)
    assert orders.fresh() == [Order.RESUME]
    orders_path(os.getpid(), tmp_path).unlink()
    assert orders.fresh() == []
    give(Order.PAUSE, os.getpid(), tmp_path)
    assert orders.fresh() == [Order.PAUSE]


def test_a_node_never_hears_what_was_said_to_one_before_it(orders: Orders, tmp_path: Path) -> None:
    give(Order.LEAVE, os.getpid(), tmp_path)
    with registered("anna", tmp_path):
        assert orders.fresh() == []
        give(Order.PAUSE, os.getpid(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_orders_to_a_dead_node_go_with_its_mark(tmp_path: Path) -> None:
    (tmp_path / f"node-{1 << 30}").write_text("gone")
    give(Order.PAUSE, 1 << 30, tmp_path)
    assert local_nodes(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
