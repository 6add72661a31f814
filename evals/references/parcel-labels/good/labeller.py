"""Gets labels for pending shipments: the only place that calls the carrier, new or retried."""

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

from carrier import Carrier, Label, Rejected, Unknown
from store import Shipment, Store
from telemetry import ORIGIN, SETTLED

IDLE_S = 0.1
FIRST_WAIT_S, LONGEST_WAIT_S = 0.4, 2.5
"""The longest wait and a hanging call together stay under the 5 s in which we notice a recovery."""

log = logging.getLogger("labeller")


class Labeller:
    def __init__(self, store: Store, carrier: Carrier, deadline: timedelta) -> None:
        self._store = store
        self._carrier = carrier
        self._deadline = deadline
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._waiters: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Starts no call any more and ends those under way; the rest stays pending on disk."""
        self._loop.cancel()
        await asyncio.gather(self._loop, *self._under_way.values(), return_exceptions=True)

    @property
    def works(self) -> bool:
        return not self._loop.done()

    async def settle(self, shipment: Shipment, within: float) -> Shipment:
        """The shipment once it is settled, or as it is after so many seconds.

        Does not wait while the carrier is down: there is nothing to wait for.
        """
        event = self._waiters.setdefault(shipment.id, asyncio.Event())
        self._wake.set()
        shipment = await self._store.get(shipment.id) or shipment
        if shipment.status == "pending" and not self._carrier.gate.down:
            try:
                await asyncio.wait_for(event.wait(), within)
            except TimeoutError:
                return shipment
            shipment = await self._store.get(shipment.id) or shipment
        return shipment

    async def _run(self) -> None:
        while True:
            try:
                await self._give_up()
                await self._start_due()
            except Exception:
                log.exception("cannot look for pending shipments")
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), IDLE_S)
            except TimeoutError:
                continue

    async def _give_up(self) -> None:
        now = datetime.now(UTC)
        for shipment in await self._store.overdue(now - self._deadline, self._under_way):
            ORIGIN.set(shipment.origin)
            log.error("gave up: no label in time", extra=_facts(shipment))
            await self._failed(shipment, "gave_up")
        ORIGIN.set(None)

    async def _start_due(self) -> None:
        room = self._carrier.gate.admits()
        if room <= 0:
            return
        for shipment in await self._store.due(room, self._under_way):
            task = asyncio.create_task(self._attempt(shipment))
            self._under_way[shipment.id] = task
            task.add_done_callback(lambda _, id=shipment.id: self._ended(id))

    def _ended(self, id: str) -> None:
        del self._under_way[id]
        self._wake.set()

    async def _attempt(self, shipment: Shipment) -> None:
        ORIGIN.set(shipment.origin)
        result = await self._carrier.buy(shipment)
        try:
            await self._record(shipment, result)
        except Exception:
            # Stays pending and is sent again with the same reference: not billed twice.
            log.exception("cannot store the carrier's answer", extra=_facts(shipment))

    async def _record(self, shipment: Shipment, result: Label | Rejected | Unknown) -> None:
        facts = _facts(shipment) | {"attempt": shipment.attempts + 1}
        if isinstance(result, Label):
            await self._store.labelled(shipment.id, result.tracking_number, result.url)
            log.info("labelled", extra=facts | {"tracking_number": result.tracking_number})
            SETTLED.labels("labelled").inc()
            self._notify(shipment.id)
        elif isinstance(result, Rejected):
            log.warning("rejected by the carrier", extra=facts | {"reason": result.reason})
            await self._failed(shipment, "rejected_by_carrier")
        else:
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(shipment.attempts, 10))
            wait *= random.uniform(0.75, 1)
            log.warning(
                "call to the carrier failed",
                extra=facts | {"cause": result.cause, "retry_in_s": round(wait, 2)},
            )
            await self._store.attempt_again(shipment.id, timedelta(seconds=wait))
            if self._carrier.gate.down:
                for id in list(self._waiters):
                    self._notify(id)

    async def _failed(self, shipment: Shipment, reason: str) -> None:
        await self._store.failed(shipment.id, reason)
        SETTLED.labels(reason).inc()
        self._notify(shipment.id)

    def _notify(self, id: str) -> None:
        if event := self._waiters.pop(id, None):
            event.set()


def _facts(shipment: Shipment) -> dict[str, object]:
    """What a log line may say of a shipment: no name, no address."""
    return {"shipment_id": shipment.id, "order_id": shipment.order_id}
