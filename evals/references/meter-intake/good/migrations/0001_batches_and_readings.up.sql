-- One row for each file; `position` and `line` say how far into the file the work has come.
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    file TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'processing', 'done')),
    position INTEGER NOT NULL DEFAULT 0,
    line INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    request_id TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    billing TEXT NOT NULL DEFAULT 'pending' CHECK (billing IN ('pending', 'delivered', 'refused')),
    billing_attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX batches_unfinished ON batches (seq) WHERE status <> 'done';
CREATE INDEX batches_unbilled ON batches (billing_attempts, seq) WHERE billing = 'pending';

-- `at` is the moment in Unix seconds, `wh` is the kWh times 1000: both exact integers.
CREATE TABLE readings (
    meter TEXT NOT NULL,
    at INTEGER NOT NULL,
    wh INTEGER NOT NULL,
    PRIMARY KEY (meter, at)
) WITHOUT ROWID;

CREATE TABLE rejected_lines (
    batch_id TEXT NOT NULL REFERENCES batches (batch_id),
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (batch_id, line)
) WITHOUT ROWID;
