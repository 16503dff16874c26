-- Times end in _ms or _ns: milliseconds or nanoseconds since the Unix epoch.
-- States, roles and kinds are the words that listings use.
--
-- A commit writes one more page for each index, so a table has only indexes that a frequent
-- statement needs. There are no triggers and no foreign keys: without an index, SQLite would search
-- a whole table for rows that refer to a removed row.

-- Facts about the repository.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Numbers that outlive the rows that they come from. 'last-delivery' and 'last-event' are the
-- greatest id and sequence of a removed row. No removed event has the repetition 'first-repetition'
-- or a greater one. All events up to 'last-swept-event' were checked for removal once.
CREATE TABLE numbers (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Payloads, once for each content, compressed. A payload without an event and without a definition
-- is garbage. The rows are in the order of arrival, so that the many payloads of a first start fill
-- whole pages. In the order of hashes, each payload would write a separate page.
CREATE TABLE payloads (
    hash       BLOB    NOT NULL UNIQUE,
    size       INTEGER NOT NULL,
    -- The identity of the definitions with this content, to find them. Null if there never was a
    -- definition. Empty if the definitions have different identities; the payload is then always
    -- kept.
    identity   TEXT,
    compressed BLOB    NOT NULL
) STRICT;

-- The record: the files of each project.
CREATE TABLE files (
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    -- Not `IN`: for a list of more than two words, SQLite builds a table for each checked row.
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
    -- The identity of the project, wherever the definition is. Null for published copies and
    -- snapshots. The kept definition of a deleted project has an identity, too.
    identity     TEXT,
    PRIMARY KEY (organization, project, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_identity ON files (identity, organization, project) WHERE identity IS NOT NULL;
-- For counts of projects, which do not include deleted projects.
CREATE INDEX files_deleted ON files (role, organization) WHERE role = 'deleted';

-- Invalid files. Files outside any project have an empty project name.
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
    -- The repetition from which the id is derived.
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
    -- The range of ids of the deliveries that were recorded with the event. The end is exclusive.
    -- Replays add deliveries outside this range.
    first_delivery INTEGER NOT NULL,
    end_delivery   INTEGER NOT NULL
) STRICT;
CREATE INDEX events_payload ON events (payload);

-- The moves of projects, for the lanes of replayed events. A move applies to the events of the
-- former key up to `last_event`. The moves of a batch happen at once, because projects may exchange
-- keys.
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
    -- The end of the wait that the receiver requested, and the time of this request.
    rests_until_ms    INTEGER,
    rests_since_ms    INTEGER,
    -- The last success of the removed deliveries. Stored deliveries have their own times.
    last_delivered_ms INTEGER
) STRICT, WITHOUT ROWID;

-- The webhooks that events of a project were routed to. They also receive the delete of the
-- project, even after the project was renamed.
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
    -- The current key of the project. If the delivery was delivered before a move, it has the
    -- former key.
    organization TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK
        (state = 'pending' OR state = 'delivered' OR state = 'dead' OR state = 'cancelled'),
    -- Whether the delivery may be sent: it is the oldest pending delivery of its webhook and
    -- project, and waits for no delete in another lane.
    is_head      INTEGER NOT NULL CHECK (NOT is_head OR state = 'pending'),
    is_delete    INTEGER NOT NULL,
    -- The hash of the project id: of a delete, of a delivery that waits for a delete with the same
    -- id in another lane, and of a redelivered or replayed delivery. Otherwise null.
    project_id   BLOB,
    origin       TEXT    NOT NULL,
    n_attempts   INTEGER NOT NULL DEFAULT 0,
    -- The number of attempts that use up no step of the current schedule.
    n_attempts_before INTEGER NOT NULL DEFAULT 0,
    n_redeliveries INTEGER NOT NULL DEFAULT 0,
    due_ms       INTEGER NOT NULL,
    -- Whether the receiver asked for the time of the next attempt.
    is_due_as_asked INTEGER NOT NULL DEFAULT 0,
    created_ms   INTEGER NOT NULL,
    -- Since when the delivery is pending: its creation, or its last redelivery.
    waiting_ms   INTEGER NOT NULL,
    finished_ms  INTEGER,
    last_status  INTEGER,
    last_error   TEXT,
    -- Whether the id is outside the event's range, because of a replay or `migrate-store`.
    is_replay    INTEGER NOT NULL DEFAULT 0
) STRICT;
-- Claims read only this index, so that a million pending deliveries cost no more than ten.
CREATE INDEX deliveries_due ON deliveries (webhook, due_ms) WHERE is_head;
-- The order in each lane. Counts of pending deliveries read only this index.
CREATE INDEX deliveries_lane ON deliveries (webhook, organization, project, event, waiting_ms)
    WHERE state = 'pending';
-- The order across lanes. Nearly all rows have no project id and are not in this index.
CREATE INDEX deliveries_project_id ON deliveries (webhook, project_id, is_delete, event)
    WHERE state = 'pending' AND project_id IS NOT NULL;
-- For moves of projects. Delivered deliveries are not in this index.
CREATE INDEX deliveries_undelivered ON deliveries (webhook, organization, project)
    WHERE state = 'dead' OR state = 'cancelled';
-- The deliveries of an event outside its range of ids.
CREATE INDEX deliveries_replay ON deliveries (event) WHERE is_replay;
-- For retention, and for counts of deliveries that are not pending.
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
