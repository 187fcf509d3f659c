from __future__ import annotations

import asyncio

from manor_bus.wire.messages.bus import Authorise, Reloaded
from manor_bus.wire.messages.documents import AnyDocument, Credential, CredentialSpec, Metadata, Network
from manor_config.credentials import granted, pass_on
from manor_config.references import Ref
from tests.testkit.house import House
from tests.testkit.virtual import Network as Wires
from tests.testkit.virtual import run

KEY = "a" * 40
OTHER = "b" * 40


def credential(name: str, key: str, *, revoked: bool = False) -> tuple[Ref, AnyDocument]:
    spec = CredentialSpec(principal=f"observer/{name}", public_key=key, revoked=revoked)
    return Ref("Credential", name), Credential(metadata=Metadata(name=name), spec=spec)


def test_only_credentials_that_are_not_revoked_are_granted() -> None:
    network = (Ref("Network", "lan"), Network(metadata=Metadata(name="lan")))
    documents = [credential("grafana", KEY), credential("old", OTHER, revoked=True), network]
    assert granted(documents) == {KEY: "observer/grafana"}


def test_the_broker_is_told_at_the_start_after_a_change_and_after_its_restart() -> None:
    async def main() -> None:
        house = House(Wires(1))
        told: list[dict[str, str]] = []
        house.network.granted = told
        config = house.peer("service/config")
        await config.ready()
        documents = [credential("grafana", KEY)]
        task = asyncio.get_running_loop().create_task(pass_on(config, lambda: list(documents)))
        await asyncio.sleep(1)
        assert told == [{KEY: "observer/grafana"}]
        documents.append(credential("alice", OTHER))
        config.state.rev += 1
        await asyncio.sleep(1)
        assert told[1:] == [{KEY: "observer/grafana", OTHER: "observer/alice"}]
        house.network.kill_broker()
        house.network.start_broker()
        await asyncio.sleep(5)
        assert told[2:] == [told[1]]
        task.cancel()
        await house.close()

    run(main())


def test_only_config_may_pass_credentials_on() -> None:
    async def main() -> None:
        house = House(Wires(2))
        for label in ("operator/admin", "service/lifecycle", "observer/eve"):
            peer = house.peer(label)
            await peer.ready()
            refused = ""
            try:
                await peer.call(Authorise(keys={}), Reloaded, timeout=2)
            except Exception as error:
                refused = str(error)
            assert "only config" in refused or "may not" in refused, label
        await house.close()

    run(main())
