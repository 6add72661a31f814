"""Starts the service (configuration, tables, both workers, HTTP) and ends it on SIGTERM."""

import asyncio
import signal
import sys

from aiohttp import web
from intake import log
from intake import web as http
from intake.billing import Billing
from intake.config import ConfigError, load
from intake.processor import Processor
from intake.store import Store
from migrate import migrate

UPLOADS_MAY_TAKE_S = 2.5
"""How long a stop waits for uploads that are half in."""


async def serve(config):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    config.files.mkdir(parents=True, exist_ok=True)
    migrate(config.database)
    store = Store(config)
    store.remove_orphans()
    billing = Billing(config, store)
    processor = Processor(store, on_done=lambda: loop.call_soon_threadsafe(billing.wake.set))
    handlers = http.Handlers(config, store, processor)
    runner = web.AppRunner(http.application(handlers), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", config.port, backlog=1024)
    await site.start()
    log.event("started", port=config.port, processing=config.processing)
    if config.processing:
        processor.start()
    sending = asyncio.create_task(billing.run())

    await stop.wait()
    log.event("stopping")
    sending.cancel()
    processor.ask_to_stop()
    await site.stop()  # no new connection; aiohttp would cut off what is half in, so we wait for it
    await handlers.uploads_done(UPLOADS_MAY_TAKE_S)
    await runner.cleanup()
    await asyncio.to_thread(processor.join)
    log.event("stopped")


def main():
    log.configure()
    try:
        config = load()
    except ConfigError as error:
        log.event("refusing to start", level="error", error=str(error))
        return 2
    asyncio.run(serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
