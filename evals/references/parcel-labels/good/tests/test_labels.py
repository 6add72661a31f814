"""The never-happens, against a carrier that can be broken: billed twice, lost, flooded."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

sys.path.insert(0, str(Path(__file__).parents[1]))

import main
import migrate
from settings import Settings, SettingsError

BODY = {
    "order_id": "A-1",
    "recipient": {
        **{"name": "N", "street": "S 1", "postcode": "9000"},
        **{"city": "Gent", "country": "BE"},
    },
    "weight_g": 900,
}


class Carrier:
    def __init__(self) -> None:
        self.references: list[str] = []
        self.status = 201
        self.delay = 0.0

    async def label(self, request: web.Request) -> web.Response:
        self.references.append((await request.json())["reference"])
        await asyncio.sleep(self.delay)
        label = {"tracking_number": "PO1", "label_url": "https://labels.postillon.example/1"}
        return web.json_response(label if self.status < 300 else {}, status=self.status)


@contextlib.asynccontextmanager
async def serve(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@contextlib.asynccontextmanager
async def system(data: Path, carrier: Carrier) -> AsyncIterator[ClientSession]:
    fake = web.Application()
    fake.router.add_post("/v1/labels", carrier.label)
    async with serve(fake) as url:
        settings = Settings(0, data / "shipments.db", url, "token", 900)
        migrate.up(settings.database)
        async with serve(main.build(settings)) as own, ClientSession(own) as session:
            yield session


async def post(session: ClientSession, key: str) -> tuple[int, dict[str, object]]:
    async with session.post("/shipments", json=BODY, headers={"Idempotency-Key": key}) as answer:
        return answer.status, await answer.json()


def test_pressed_twenty_times_is_one_label(tmp_path: Path) -> None:
    async def scenario() -> None:
        carrier = Carrier()
        async with system(tmp_path, carrier) as session:
            answers = await asyncio.gather(*(post(session, "k") for _ in range(20)))
        assert {status for status, _ in answers} == {201}
        assert len({body["id"] for _, body in answers}) == len(carrier.references) == 1

    asyncio.run(scenario())


def test_pending_goes_on_after_a_restart_with_the_same_reference(tmp_path: Path) -> None:
    async def scenario() -> None:
        carrier = Carrier()
        carrier.status = 500
        async with system(tmp_path, carrier) as session:
            status, shipment = await post(session, "k")
            assert status == 202
        carrier.status = 201
        async with system(tmp_path, carrier) as session:
            while (await post(session, "k"))[0] == 202:
                await asyncio.sleep(0.05)
        assert set(carrier.references) == {shipment["id"]}

    asyncio.run(scenario())


def test_a_dead_carrier_sees_no_more_calls_when_more_shipments_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        carrier = Carrier()
        carrier.status = 503
        async with system(tmp_path, carrier) as session:
            answers = await asyncio.gather(*(post(session, f"k{n}") for n in range(60)))
            answers += await asyncio.gather(*(post(session, f"l{n}") for n in range(60)))
        assert {status for status, _ in answers} == {202}
        assert len(carrier.references) <= 25

    asyncio.run(scenario())


def test_a_hanging_carrier_does_not_hold_the_scanner(tmp_path: Path) -> None:
    async def scenario() -> None:
        carrier = Carrier()
        carrier.delay = 60
        async with system(tmp_path, carrier) as session:
            status, _ = await asyncio.wait_for(post(session, "k"), 3)
        assert status == 202

    asyncio.run(scenario())


def test_the_schema_goes_up_down_and_up(tmp_path: Path) -> None:
    database = tmp_path / "shipments.db"
    assert migrate.up(database) == 1
    assert migrate.down(database) == 0
    assert migrate.up(database) == 1


def test_wrong_settings_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRIER_URL", "postillon")
    monkeypatch.delenv("CARRIER_TOKEN", raising=False)
    monkeypatch.setenv("LABEL_DEADLINE_S", "soon")
    with pytest.raises(SettingsError) as told:
        Settings.from_environment()
    for name in ("CARRIER_URL", "CARRIER_TOKEN", "LABEL_DEADLINE_S"):
        assert name in str(told.value)
