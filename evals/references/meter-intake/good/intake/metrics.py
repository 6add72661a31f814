"""What Prometheus sees. What waits is asked of the database at each scrape: never stale."""

from prometheus_client import Counter, Gauge

requests = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
rejected = Counter("rejected_lines_total", "Lines rejected", ["reason"])
billing_calls = Counter("billing_calls_total", "Calls to billing", ["outcome"])
waiting = Gauge("batches_waiting", "Files accepted and not finished")
notices = Gauge("billing_notices_waiting", "Notices of finished files that billing has not got")

for reason in ("bad_json", "bad_meter", "bad_time", "bad_kwh", "conflict"):
    rejected.labels(reason)


def watch(store):
    waiting.set_function(store.waiting)
    notices.set_function(store.notices_waiting)
