CREATE TABLE shipments (
    id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    body_hash TEXT NOT NULL,
    order_id TEXT NOT NULL,
    request TEXT NOT NULL,  -- recipient and weight as the carrier gets them, JSON
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'labelled', 'failed')),
    tracking_number TEXT,
    label_url TEXT,
    failure_reason TEXT CHECK (failure_reason IN ('rejected_by_carrier', 'gave_up')),
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    next_attempt_at TEXT NOT NULL,
    request_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    trace_flags TEXT NOT NULL,
    CHECK ((status = 'labelled') = (tracking_number IS NOT NULL AND label_url IS NOT NULL)),
    CHECK ((status = 'failed') = (failure_reason IS NOT NULL))
);
CREATE INDEX shipments_pending ON shipments (next_attempt_at) WHERE status = 'pending';
CREATE INDEX shipments_by_age ON shipments (created_at);
