"""Works through accepted files, one after the other, in one thread."""

import threading

from intake import log, metrics, trace
from intake.records import BadLine, parse

CHUNK = 500
"""Lines in a transaction: a crash repeats at most so many, and no reader waits longer for them."""


class Processor:
    def __init__(self, store, on_done):
        self._store = store
        self._on_done = on_done
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor")
        self._started = False

    def start(self):
        self._started = True
        self._thread.start()

    def wake(self):
        self._wake.set()

    def ask_to_stop(self):
        self._stop.set()
        self._wake.set()

    def join(self):
        if self._started:
            self._thread.join()

    @property
    def healthy(self):
        return not self._started or self._thread.is_alive() or self._stop.is_set()

    def _run(self):
        while not self._stop.is_set():
            self._wake.clear()
            batch = self._store.next_batch()
            if batch is None:
                self._wake.wait(5)
                continue
            try:
                self._process(batch)
            except Exception as error:  # a full disk, say: nothing is lost, it is tried again
                fields = {"batch_id": batch["batch_id"], "request_id": batch["request_id"]}
                log.event("processing failed", level="error", error=repr(error), **fields)
                self._stop.wait(1)

    def _process(self, batch):
        """From the last committed place in the file to its end, or until asked to stop."""
        fields = {
            "batch_id": batch["batch_id"],
            "request_id": batch["request_id"],
            "trace_id": trace.trace_id(batch["traceparent"]),
        }
        log.event("processing", from_line=batch["line"] + 1, **fields)
        path, number = self._store.path(batch["file"]), batch["line"]
        with open(path, "rb") as file:
            file.seek(batch["position"])
            done = False
            while not done and not self._stop.is_set():
                readings, rejected = [], []
                for _ in range(CHUNK):
                    line = file.readline()
                    if not line:
                        done = True
                        break
                    number += 1
                    if not line.strip():
                        continue
                    try:
                        readings.append((number, parse(line)))
                    except BadLine as bad:
                        rejected.append((number, str(bad)))
                rejected = self._store.apply(
                    batch["batch_id"], readings, rejected, file.tell(), number, done
                )
                for _, reason in rejected:
                    metrics.rejected.labels(reason).inc()
        if done:
            path.unlink(missing_ok=True)
            log.event("processed", lines=number, **fields)
            self._on_done()
        else:
            log.event("interrupted", at_line=number, **fields)
