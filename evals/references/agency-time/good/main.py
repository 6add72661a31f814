"""Starts the service."""

import logging
import sys

import config
import logs
import migrate
import uvicorn
from api import create_app
from store import Store


def main() -> None:
    logs.setup()
    try:
        settings = config.load()
    except ValueError as error:
        logging.critical("configuration: %s", error)
        sys.exit(1)
    database = migrate.connect(settings.data_dir)
    migrate.up(database)
    app = create_app(Store(database), settings.jwt_secret)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=8,
    )


if __name__ == "__main__":
    main()
