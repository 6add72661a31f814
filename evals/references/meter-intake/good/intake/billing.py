"""Tells billing about finished files: at least once, and gently while it is down."""

import asyncio
import random

import aiohttp

from intake import log, metrics, trace

TIMEOUT_S = 2.0
PAUSE_S = 1.0
"""Between two calls while billing is down: they asked for at most one a second in total."""
REFUSED = (400, 409, 422)


class Billing:
    """One call at a time, so a dead billing sees a single probe a second, whatever waits."""

    def __init__(self, config, store):
        self._url = f"{config.billing_url}/v1/notices"
        self._headers = {"Authorization": f"Bearer {config.billing_token}"}
        self._store = store
        self.wake = asyncio.Event()

    async def run(self):
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while True:
                self.wake.clear()
                try:
                    batch = await asyncio.to_thread(self._store.next_notice)
                    if batch is None:
                        await self.wake.wait()
                        continue
                    outcome = await self._send(session, batch)
                    await asyncio.to_thread(self._store.notice_tried, batch["batch_id"], outcome)
                except Exception as error:  # the database, not billing
                    log.event("billing worker failed", level="error", error=repr(error))
                    outcome = "pending"
                if outcome == "pending":
                    await asyncio.sleep(PAUSE_S * random.uniform(1.0, 1.2))

    async def _send(self, session, batch):
        """One call: 'delivered', 'refused' or, if it is to be tried again, 'pending'."""
        notice = {name: batch[name] for name in ("batch_id", "stored", "duplicates", "rejected")}
        headers = {
            "Event-Id": batch["batch_id"],
            "X-Request-ID": batch["request_id"],
            "traceparent": trace.child(batch["traceparent"]),
        }
        fields = {"batch_id": batch["batch_id"], "request_id": batch["request_id"]}
        fields["trace_id"] = trace.trace_id(batch["traceparent"])
        try:
            async with session.post(self._url, json=notice, headers=headers) as response:
                status, error = response.status, None
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            status, error = None, repr(problem)
        if status is not None and 200 <= status < 300:
            outcome = "delivered"
        else:
            outcome = "refused" if status in REFUSED else "pending"
        metrics.billing_calls.labels(outcome).inc()
        level = "info" if outcome == "delivered" else "warning"
        log.event(
            "billing notice", level=level, outcome=outcome, status=status, error=error, **fields
        )
        return outcome
