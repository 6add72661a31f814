"""Entry point: settings, wiring, start and stop."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import api
import migrate
from aiohttp import web
from carrier import Carrier
from labeller import Labeller
from settings import Settings, SettingsError
from store import Store
from telemetry import set_up_logging

# SIGTERM leaves 10 s. A waiting scanner is answered in 2.3 s, a call to the carrier ends in 2.2 s.
SHUTDOWN_S = 5

log = logging.getLogger("main")


def build(settings: Settings) -> web.Application:
    async def parts(app: web.Application) -> AsyncIterator[None]:
        store = Store(settings.database)
        async with aiohttp.ClientSession() as session:
            carrier = Carrier(session, settings.carrier_url, settings.carrier_token)
            labeller = Labeller(store, carrier, timedelta(seconds=settings.label_deadline_s))
            labeller.start()
            app[api.STORE], app[api.LABELLER] = store, labeller
            yield
            await labeller.stop()
        store.close()
        log.info("stopped")

    app = api.application()
    app.cleanup_ctx.append(parts)  # left only when the last request has been answered
    return app


def main() -> int:
    set_up_logging()
    try:
        settings = Settings.from_environment()
        version = migrate.up(settings.database)
    except (SettingsError, migrate.MigrationError) as error:
        log.critical("cannot start", extra={"error": str(error)})
        return 2
    log.info("starting", extra={"port": settings.port, "schema_version": version})
    loop = asyncio.new_event_loop()
    web.run_app(
        build(settings),
        host="127.0.0.1",
        port=settings.port,
        shutdown_timeout=SHUTDOWN_S,
        access_log=None,
        print=None,
        loop=loop,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
