-- Times end in _ms or _ns: milliseconds or nanoseconds since the Unix epoch.
-- States, roles and kinds are the words that listings use.
--
-- Each index is a page more for each commit, so a table has only those that a frequent statement
-- needs. There are no triggers and no foreign keys: SQLite would look for the rows that refer to a
-- removed one without an index.

-- Facts about the repository.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Numbers that outlive their rows. 'last-delivery' and 'last-event' are the greatest id and
-- sequence of a removed row. No removed event has the repetition 'first-repetition' or a greater
-- one. All events up to 'last-swept-event' were checked for removal once.
CREATE TABLE numbers (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Payloads, once for each content, compressed. A payload without an event and without a definition
-- is garbage. In the order of arrival, so that the many payloads of a first start fill whole pages;
-- in the order of hashes each of them would write a page of its own.
CREATE TABLE payloads (
    hash       BLOB    NOT NULL UNIQUE,
    size       INTEGER NOT NULL,
    -- The identity of the definitions with this content, for finding them. Null if there never was
    -- one; empty if they disagree, and then the payload is kept.
    identity   TEXT,
    compressed BLOB    NOT NULL
) STRICT;

-- The record. A project is its files.
CREATE TABLE files (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    -- Not `IN`: SQLite builds a table of a list of more than two words for each row that it checks.
    role         TEXT    NOT NULL
        CHECK (role = 'definition' OR role = 'published' OR role = 'snapshot' OR role = 'deleted'),
    tag          TEXT,
    inode        INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    modified_ns  INTEGER NOT NULL,
    changed_ns   INTEGER NOT NULL,
    read_ns      INTEGER NOT NULL,
    hash         BLOB    NOT NULL,
    owner        TEXT    NOT NULL,
    document     TEXT    NOT NULL,
    -- The identity of the definition's project, wherever the file is; null for copies. A deleted
    -- project has one too.
    identity     TEXT,
    PRIMARY KEY (organization, project, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_identity ON files (identity, organization, project) WHERE identity IS NOT NULL;
-- For counts of projects, which do not include deleted ones.
CREATE INDEX files_deleted ON files (role, organization) WHERE role = 'deleted';

-- Ignored files. Those outside any project have two empty names.
CREATE TABLE problems (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    line         INTEGER,
    column       INTEGER,
    may_resolve  INTEGER NOT NULL,
    since_ms     INTEGER NOT NULL,
    PRIMARY KEY (organization, project, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    sequence       INTEGER PRIMARY KEY,
    id             TEXT    NOT NULL UNIQUE,
    -- The repetition that the id is made of.
    repetition     INTEGER NOT NULL,
    kind           TEXT    NOT NULL,
    organization   TEXT    NOT NULL,
    project        TEXT    NOT NULL,
    origin         TEXT    NOT NULL,
    occurred_ns    INTEGER NOT NULL,
    recorded_ms    INTEGER NOT NULL,
    parameters     TEXT    NOT NULL,
    explanation    TEXT    NOT NULL,
    payload        BLOB    NOT NULL,
    -- The deliveries of an event are recorded with it, so their ids follow one another: from the
    -- first one up to, and without, the end. Replays add others.
    first_delivery INTEGER NOT NULL,
    end_delivery   INTEGER NOT NULL
) STRICT;
CREATE INDEX events_payload ON events (payload);

-- The moves of projects, for the lanes of replayed events. A move concerns the events of the former
-- key up to the last one before it. The moves of a batch happen at once: projects may exchange keys.
CREATE TABLE moves (
    batch           INTEGER NOT NULL,
    organization    TEXT    NOT NULL,
    project         TEXT    NOT NULL,
    last_event      INTEGER NOT NULL,
    to_organization TEXT    NOT NULL,
    to_project      TEXT    NOT NULL,
    PRIMARY KEY (batch, organization, project)
) STRICT, WITHOUT ROWID;
CREATE INDEX moves_key ON moves (organization, project, batch);

-- The state of webhooks beyond their configuration.
CREATE TABLE webhooks (
    name              TEXT    NOT NULL PRIMARY KEY,
    fingerprint       BLOB,
    off_cause         TEXT    CHECK (off_cause IN ('gone', 'operator')),
    off_reason        TEXT,
    off_at_ms         INTEGER,
    last_error        TEXT,
    last_error_ms     INTEGER,
    -- Until when nothing is sent, and when the receiver asked for that.
    rests_until_ms    INTEGER,
    rests_since_ms    INTEGER,
    -- The last success among removed deliveries; kept ones have their own times.
    last_delivered_ms INTEGER
) STRICT, WITHOUT ROWID;

-- The webhooks that were to receive an event of a project. They receive its delete as well,
-- whatever the project is called then.
CREATE TABLE listeners (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    webhook      TEXT    NOT NULL,
    PRIMARY KEY (organization, project, webhook)
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    event        INTEGER NOT NULL,
    webhook      TEXT    NOT NULL,
    -- The project's key: that of the event, and after a move that of its new place, unless the
    -- delivery was delivered before.
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK
        (state = 'pending' OR state = 'delivered' OR state = 'dead' OR state = 'cancelled'),
    -- Whether it is the oldest pending one of its webhook and project, the one that may be sent.
    is_head      INTEGER NOT NULL CHECK (NOT is_head OR state = 'pending'),
    is_delete    INTEGER NOT NULL,
    -- The hash of the project id of a delete, and of a delivery that waits for a delete of the same
    -- id in another lane, or that was replayed; else null.
    project_id   BLOB,
    origin       TEXT    NOT NULL,
    n_attempts   INTEGER NOT NULL DEFAULT 0,
    -- The attempts made before the schedule was last started over.
    n_attempts_before INTEGER NOT NULL DEFAULT 0,
    n_redeliveries INTEGER NOT NULL DEFAULT 0,
    due_ms       INTEGER NOT NULL,
    -- Whether the receiver asked for the time of the next attempt.
    is_due_as_asked INTEGER NOT NULL DEFAULT 0,
    created_ms   INTEGER NOT NULL,
    -- Since when it is pending: its creation, or its last redelivery.
    waiting_ms   INTEGER NOT NULL,
    finished_ms  INTEGER,
    last_status  INTEGER,
    last_error   TEXT,
    -- Whether its id is outside the range of its event, because a replay or a move made it.
    is_replay    INTEGER NOT NULL DEFAULT 0
) STRICT;
-- Claims read these alone, so that a million pending deliveries cost no more than ten.
CREATE INDEX deliveries_due ON deliveries (webhook, due_ms) WHERE is_head;
-- The order within a webhook and a project; counts of pending deliveries read nothing else.
CREATE INDEX deliveries_lane ON deliveries (webhook, organization, project, event, waiting_ms)
    WHERE state = 'pending';
-- The order across lanes. Rows without a project id, nearly all, are not in it.
CREATE INDEX deliveries_project_id ON deliveries (webhook, project_id, is_delete, event)
    WHERE state = 'pending' AND project_id IS NOT NULL;
-- Moves of projects. A delivery that is delivered at last is never in it.
CREATE INDEX deliveries_undelivered ON deliveries (webhook, organization, project)
    WHERE state = 'dead' OR state = 'cancelled';
-- The deliveries of an event outside its range of ids.
CREATE INDEX deliveries_replay ON deliveries (event) WHERE is_replay;
-- Retention, and counts of the others.
CREATE INDEX deliveries_finished ON deliveries (webhook, state, finished_ms)
    WHERE finished_ms IS NOT NULL;

CREATE TABLE attempts (
    delivery        INTEGER NOT NULL,
    number          INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    duration_ms     INTEGER NOT NULL,
    status          INTEGER,
    error           TEXT,
    request_headers TEXT    NOT NULL,
    answer          BLOB    NOT NULL,
    -- The length of the answer before compression. Null if it is not compressed.
    answer_size     INTEGER,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;
