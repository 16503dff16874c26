-- Times end in _ms or _ns: milliseconds or nanoseconds since the Unix epoch.
-- States, roles and kinds are the words that listings use.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Payloads, once per content. The bytes have a table of their own so that counting references
-- does not touch them. A payload without references is garbage.
CREATE TABLE payloads (
    id         INTEGER PRIMARY KEY,
    hash       BLOB    NOT NULL UNIQUE,
    size       INTEGER NOT NULL,
    n_references INTEGER NOT NULL DEFAULT 0 CHECK (n_references >= 0)
) STRICT;
CREATE INDEX payloads_unreferenced ON payloads (id) WHERE n_references = 0;

CREATE TABLE payload_contents (
    payload    INTEGER PRIMARY KEY REFERENCES payloads (id) ON DELETE CASCADE,
    compressed BLOB    NOT NULL
) STRICT;

-- The record: what is known of each project.
CREATE TABLE projects (
    organization TEXT NOT NULL,
    project      TEXT NOT NULL,
    PRIMARY KEY (organization, project)
) STRICT, WITHOUT ROWID;

CREATE TABLE files (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('definition', 'published', 'snapshot')),
    tag          TEXT,
    inode        INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    modified_ns  INTEGER NOT NULL,
    changed_ns   INTEGER NOT NULL,
    read_ns      INTEGER NOT NULL,
    hash         BLOB    NOT NULL,
    owner        TEXT    NOT NULL,
    document     TEXT    NOT NULL,
    -- Which project a definition is of, wherever it lies; null for copies.
    identity     TEXT,
    PRIMARY KEY (organization, project, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_identity ON files (organization, identity, project) WHERE identity IS NOT NULL;

-- A delete must be able to send the last definition: a recorded definition keeps its payload.
CREATE TRIGGER files_inserted AFTER INSERT ON files WHEN NEW.role = 'definition' BEGIN
    UPDATE payloads SET n_references = n_references + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER files_deleted AFTER DELETE ON files WHEN OLD.role = 'definition' BEGIN
    UPDATE payloads SET n_references = n_references - 1 WHERE hash = OLD.hash;
END;
CREATE TRIGGER files_updated AFTER UPDATE ON files
WHEN OLD.hash IS NOT NEW.hash OR OLD.role IS NOT NEW.role BEGIN
    UPDATE payloads SET n_references = n_references + 1
        WHERE hash = NEW.hash AND NEW.role = 'definition';
    UPDATE payloads SET n_references = n_references - 1
        WHERE hash = OLD.hash AND OLD.role = 'definition';
END;

-- Paths that do not count. Those outside any project have two empty names.
CREATE TABLE problems (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    line         INTEGER,
    column       INTEGER,
    may_heal     INTEGER NOT NULL,
    since_ms     INTEGER NOT NULL,
    PRIMARY KEY (organization, project, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    origin       TEXT    NOT NULL,
    occurred_ns  INTEGER NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    parameters   TEXT    NOT NULL,
    explanation  TEXT    NOT NULL,
    payload      INTEGER NOT NULL REFERENCES payloads (id),
    n_deliveries INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX events_payload ON events (payload);
CREATE INDEX events_finished ON events (recorded_ms) WHERE n_deliveries = 0;

CREATE TRIGGER events_inserted AFTER INSERT ON events BEGIN
    UPDATE payloads SET n_references = n_references + 1 WHERE id = NEW.payload;
END;
CREATE TRIGGER events_deleted AFTER DELETE ON events BEGIN
    UPDATE payloads SET n_references = n_references - 1 WHERE id = OLD.payload;
END;

-- What is known of a webhook beyond its configuration: whether it is off, and its counters.
CREATE TABLE webhooks (
    name              TEXT    NOT NULL PRIMARY KEY,
    fingerprint       BLOB,
    off_cause         TEXT    CHECK (off_cause IN ('gone', 'operator')),
    off_reason        TEXT,
    off_at_ms         INTEGER,
    n_pending         INTEGER NOT NULL DEFAULT 0,
    n_delivered       INTEGER NOT NULL DEFAULT 0,
    n_dead            INTEGER NOT NULL DEFAULT 0,
    n_cancelled       INTEGER NOT NULL DEFAULT 0,
    last_error        TEXT,
    last_error_ms     INTEGER,
    last_delivered_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    event        INTEGER NOT NULL REFERENCES events (sequence),
    webhook      TEXT    NOT NULL REFERENCES webhooks (name),
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
    origin       TEXT    NOT NULL,
    n_attempts   INTEGER NOT NULL DEFAULT 0,
    -- The attempts made before the schedule was last started over.
    n_attempts_before INTEGER NOT NULL DEFAULT 0,
    due_ms       INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    -- Since when it waits: its creation, or its last redelivery.
    waiting_ms   INTEGER NOT NULL,
    finished_ms  INTEGER,
    last_status  INTEGER,
    last_error   TEXT
) STRICT;
CREATE INDEX deliveries_lane ON deliveries (webhook, organization, project, id)
    WHERE state = 'pending';
CREATE INDEX deliveries_event ON deliveries (event);
CREATE INDEX deliveries_webhook ON deliveries (webhook, state);
CREATE INDEX deliveries_finished ON deliveries (state, finished_ms)
    WHERE finished_ms IS NOT NULL;

CREATE TRIGGER deliveries_inserted AFTER INSERT ON deliveries BEGIN
    UPDATE events SET n_deliveries = n_deliveries + 1 WHERE sequence = NEW.event;
    UPDATE webhooks SET
        n_pending   = n_pending   + (NEW.state = 'pending'),
        n_delivered = n_delivered + (NEW.state = 'delivered'),
        n_dead      = n_dead      + (NEW.state = 'dead'),
        n_cancelled = n_cancelled + (NEW.state = 'cancelled')
        WHERE name = NEW.webhook;
END;
CREATE TRIGGER deliveries_deleted AFTER DELETE ON deliveries BEGIN
    UPDATE events SET n_deliveries = n_deliveries - 1 WHERE sequence = OLD.event;
    UPDATE webhooks SET
        n_pending   = n_pending   - (OLD.state = 'pending'),
        n_delivered = n_delivered - (OLD.state = 'delivered'),
        n_dead      = n_dead      - (OLD.state = 'dead'),
        n_cancelled = n_cancelled - (OLD.state = 'cancelled')
        WHERE name = OLD.webhook;
END;
CREATE TRIGGER deliveries_updated AFTER UPDATE OF state ON deliveries
WHEN OLD.state <> NEW.state BEGIN
    UPDATE webhooks SET
        n_pending   = n_pending   + (NEW.state = 'pending')   - (OLD.state = 'pending'),
        n_delivered = n_delivered + (NEW.state = 'delivered') - (OLD.state = 'delivered'),
        n_dead      = n_dead      + (NEW.state = 'dead')      - (OLD.state = 'dead'),
        n_cancelled = n_cancelled + (NEW.state = 'cancelled') - (OLD.state = 'cancelled')
        WHERE name = NEW.webhook;
END;

-- Lanes: one per webhook and project with something pending, led by its oldest delivery. Claims
-- read only these, so that a million waiting deliveries cost no more than ten.
CREATE TABLE lanes (
    webhook      TEXT    NOT NULL,
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    head         INTEGER NOT NULL,
    due_ms       INTEGER NOT NULL,
    waiting_ms   INTEGER NOT NULL,
    PRIMARY KEY (webhook, organization, project)
) STRICT, WITHOUT ROWID;
CREATE INDEX lanes_due ON lanes (webhook, due_ms, head);
CREATE INDEX lanes_waiting ON lanes (webhook, waiting_ms);

CREATE TABLE attempts (
    id              INTEGER PRIMARY KEY,
    delivery        INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number          INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    duration_ms     INTEGER NOT NULL,
    status          INTEGER,
    error           TEXT,
    request_headers TEXT    NOT NULL,
    answer          BLOB    NOT NULL,
    UNIQUE (delivery, number)
) STRICT;
