CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    rate_cents INTEGER NOT NULL CHECK (rate_cents >= 0),
    UNIQUE (tenant, id)
);
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    date TEXT NOT NULL,
    minutes INTEGER NOT NULL CHECK (minutes BETWEEN 1 AND 1440),
    note TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    -- An entry cannot point at another tenant's project, whatever the code does.
    FOREIGN KEY (tenant, project_id) REFERENCES projects (tenant, id)
);
CREATE INDEX entries_by_date ON entries (tenant, date DESC, seq DESC);
CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    sub TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    response TEXT NOT NULL,
    etag TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant, sub, key)
);
