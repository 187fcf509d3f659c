from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.discovery import Find, Found, FoundPart, NodeStatus
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle import opening
from tests.lifecycle.scene import Scene, on_stage


async def apply(scene: Scene, kind: str, name: str, **spec: Any) -> None:
    document = {"kind": kind, "metadata": {"name": name}, "spec": spec}
    await scene.operator.call(c.Apply(documents=(document,)), c.Applied, timeout=10)


async def nodes(scene: Scene) -> list[NodeStatus]:
    found: list[NodeStatus] = []

    def part(message: object) -> None:
        assert isinstance(message, FoundPart)
        found.extend(entry.fact for entry in message.entries if isinstance(entry.fact, NodeStatus))

    await scene.operator.call(Find(kind="node"), Found, timeout=10, on_part=part)
    return found


def test_settings_of_the_cluster_are_known_before_the_first_start_and_followed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await apply(scene, "ClusterSettings", "cluster", concurrent_starts=3, operations_keep=500)
        await scene.kill()
        await scene.restart()
        site = scene.opened[-1].site
        assert (site.starts.limit, site.operations.keep) == (3, 500)
        await apply(scene, "ClusterSettings", "cluster", concurrent_starts=4)
        await asyncio.sleep(60)
        assert site.starts.limit == 4
        assert isinstance(site.hypervisors, dict)
        site.hypervisors["other"] = site.hypervisors["fake"]
        for chosen, default in (("other", "other"), ("nothing", "fake"), ("", "fake")):
            await apply(scene, "ClusterSettings", "cluster", default_hypervisor=chosen)
            await asyncio.sleep(1)
            assert site.place.default_hypervisor == default

    on_stage(tmp_path, scenario)


def test_the_node_is_told_with_its_hypervisors_and_the_labels_of_its_document(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        node = scene.opened[-1].site.place.node
        await apply(scene, "Node", node, labels={"rack": "3"})
        await asyncio.sleep(60)
        (status,) = await nodes(scene)
        assert (status.name, status.labels, status.hypervisors) == (node, {"rack": "3"}, {"fake": "1"})

    on_stage(tmp_path, scenario)


def test_without_config_nothing_is_opened(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.kill()
        await scene.home.kill("config")
        peer = scene.home.peer("service/lifecycle")
        await peer.ready()
        with pytest.raises(ManorError) as refused:
            await opening.open_all(peer, scene.settings)
        assert refused.value.kind is Kind.UNAVAILABLE

    on_stage(tmp_path, scenario)


def test_an_adapter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        raise AssertionError("it was opened")

    with pytest.raises(ManorError, match="no hypervisor adapter 'nothing'") as refused:
        on_stage(tmp_path, scenario, hypervisors=("nothing",))
    assert refused.value.kind is Kind.NOT_FOUND


def test_an_ordered_stop_leaves_guests_and_open_operations_for_the_next_start(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await scene.do(m.DomainStart(name="web"))
        await scene.apply("db", extra={"fake": {"create": {"wait_s": 30}}})
        start = await scene.call(m.DomainStart(name="db"))
        await scene.home.stop("lifecycle")
        await scene.restart()
        assert (await scene.until(State.RUNNING)).incarnation == 1
        assert (await scene.outcome(start.id)).state is OperationState.DONE

    on_stage(tmp_path, scenario)


def test_folders_of_the_service_are_its_own(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        pass

    on_stage(tmp_path, scenario)
    for folder in ("saved", "dumps", "fake"):
        assert (tmp_path / "lifecycle" / folder).stat().st_mode & 0o777 == 0o700
