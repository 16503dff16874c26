-- Times end in _ms or _ns: milliseconds or nanoseconds since the Unix epoch.
-- States, roles and kinds are the words that listings use.
--
-- Every table has the repository in its key, because several repositories share one database. Text is
-- compared by its bytes, as the program does. Texts of any length are not in an index, because a row
-- of an index has at most 2,700 bytes: their hash is.

CREATE TABLE repositories (
    id               INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Numbers are never reused.
    next_event       BIGINT  NOT NULL DEFAULT 1,
    next_delivery    BIGINT  NOT NULL DEFAULT 1,
    -- No removed event has this repetition or a greater one.
    first_repetition BIGINT  NOT NULL DEFAULT 0,
    -- All events up to this one were checked for removal once.
    last_swept_event BIGINT  NOT NULL DEFAULT 0,
    -- One half of the key of the fingerprints of settings. The password is the other half.
    fingerprint_key  BYTEA   NOT NULL,
    -- The batch that was recorded last, for a process that lost the connection during its commit.
    last_batch       BYTEA,
    -- The epoch of the lease. Each commit of a holder checks it.
    epoch            BIGINT  NOT NULL DEFAULT 0,
    -- Counts the transactions that wrote, for listings that show what is new.
    version          BIGINT  NOT NULL DEFAULT 0,
    -- Counts the changes by operators, for processes that missed a notification.
    changes          BIGINT  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The process that has the lease on a repository, until it expires. Each holder has an epoch of its
-- own. In a table of its own, because a renewal must not wait for a long commit.
CREATE TABLE leases (
    repository   INTEGER     NOT NULL PRIMARY KEY,
    epoch        BIGINT      NOT NULL,
    holder       TEXT        NOT NULL,
    since        TIMESTAMPTZ NOT NULL,
    leased_until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- The processes that wait for the lease on a repository.
CREATE TABLE standbys (
    repository INTEGER     NOT NULL,
    process    TEXT        NOT NULL,
    since      TIMESTAMPTZ NOT NULL,
    seen       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (repository, process)
) WITH (fillfactor = 50);

-- The processes that deliver. Each has a lease, which ends without renewals.
CREATE TABLE senders (
    id           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository   INTEGER     NOT NULL,
    name         TEXT        NOT NULL,
    since        TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    seen         TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    leased_until TIMESTAMPTZ NOT NULL,
    -- Counts the transactions that recorded results, for listings that show what is new.
    n_recordings BIGINT      NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The deliveries that a sender sends now or next, with their lanes. No other sender claims a delivery
-- of the same lane.
CREATE TABLE claims (
    repository   INTEGER NOT NULL,
    delivery     BIGINT  NOT NULL,
    webhook      TEXT    COLLATE "C" NOT NULL,
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    sender       BIGINT  NOT NULL,
    PRIMARY KEY (repository, delivery)
);
CREATE INDEX claims_lane ON claims (repository, webhook, organization, project);

-- Facts about a repository.
CREATE TABLE meta (
    repository INTEGER NOT NULL,
    key        TEXT    COLLATE "C" NOT NULL,
    value      TEXT    NOT NULL,
    PRIMARY KEY (repository, key)
);

-- Payloads, once for each content, compressed.
CREATE TABLE payloads (
    repository INTEGER NOT NULL,
    hash       BYTEA   NOT NULL,
    size       BIGINT  NOT NULL,
    compressed BYTEA   NOT NULL,
    PRIMARY KEY (repository, hash)
);
ALTER TABLE payloads ALTER COLUMN compressed SET STORAGE EXTERNAL;

-- The record. A project is its files.
CREATE TABLE files (
    repository   INTEGER NOT NULL,
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    path         TEXT    COLLATE "C" NOT NULL,
    path_hash    BYTEA   NOT NULL,
    role         TEXT    NOT NULL
        CHECK (role IN ('definition', 'published', 'snapshot', 'deleted')),
    tag          TEXT,
    inode        BIGINT  NOT NULL,
    size         BIGINT  NOT NULL,
    modified_ns  BIGINT  NOT NULL,
    changed_ns   BIGINT  NOT NULL,
    read_ns      BIGINT  NOT NULL,
    hash         BYTEA   NOT NULL,
    owner        TEXT    NOT NULL,
    document     TEXT    NOT NULL,
    -- The hash of the identity of the definition's project; null for copies. A deleted project has
    -- one too.
    identity     BYTEA,
    PRIMARY KEY (repository, organization, project, path_hash)
);
CREATE INDEX files_identity ON files (repository, identity) WHERE identity IS NOT NULL;
-- The payloads that definitions need.
CREATE INDEX files_definition ON files (repository, hash) WHERE identity IS NOT NULL;

-- Ignored files. Those outside any project have two empty names.
CREATE TABLE problems (
    repository   INTEGER NOT NULL,
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    path         TEXT    COLLATE "C" NOT NULL,
    path_hash    BYTEA   NOT NULL,
    reason       TEXT    NOT NULL,
    line         BIGINT,
    "column"     BIGINT,
    may_resolve  BOOLEAN NOT NULL,
    since_ms     BIGINT  NOT NULL,
    PRIMARY KEY (repository, organization, project, path_hash)
);

CREATE TABLE events (
    repository   INTEGER NOT NULL,
    sequence     BIGINT  NOT NULL,
    id           TEXT    COLLATE "C" NOT NULL,
    -- The repetition that the id is made of.
    repetition   BIGINT  NOT NULL,
    kind         TEXT    NOT NULL,
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    origin       TEXT    NOT NULL,
    occurred_ns  BIGINT  NOT NULL,
    recorded_ms  BIGINT  NOT NULL,
    parameters   TEXT    NOT NULL,
    explanation  TEXT    NOT NULL,
    payload      BYTEA   NOT NULL,
    PRIMARY KEY (repository, sequence),
    UNIQUE (repository, id)
);
CREATE INDEX events_payload ON events (repository, payload);

-- The moves of projects, for the lanes of replayed events. A move concerns the events of the former
-- key up to the last one before it. The moves of a batch happen at once: projects may exchange keys.
CREATE TABLE moves (
    repository      INTEGER NOT NULL,
    batch           BIGINT  NOT NULL,
    organization    TEXT    COLLATE "C" NOT NULL,
    project         TEXT    COLLATE "C" NOT NULL,
    last_event      BIGINT  NOT NULL,
    to_organization TEXT    NOT NULL,
    to_project      TEXT    NOT NULL,
    PRIMARY KEY (repository, batch, organization, project)
);

-- The state of webhooks beyond their configuration.
CREATE TABLE webhooks (
    repository        INTEGER NOT NULL,
    name              TEXT    COLLATE "C" NOT NULL,
    fingerprint       BYTEA,
    off_cause         TEXT    CHECK (off_cause IN ('gone', 'operator')),
    off_reason        TEXT,
    off_at_ms         BIGINT,
    last_error        TEXT,
    last_error_ms     BIGINT,
    -- Until when nothing is sent, and when the receiver asked for that.
    rests_until_ms    BIGINT,
    rests_since_ms    BIGINT,
    -- The last success among removed deliveries; kept ones have their own times.
    last_delivered_ms BIGINT,
    -- The sender that alone may send, while the endpoint is down or limits requests.
    sole_sender       BIGINT,
    PRIMARY KEY (repository, name)
);

-- The webhooks that were to receive an event of a project. They receive its delete as well,
-- whatever the project is called then.
CREATE TABLE listeners (
    repository   INTEGER NOT NULL,
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    webhook      TEXT    COLLATE "C" NOT NULL,
    PRIMARY KEY (repository, organization, project, webhook)
);

CREATE TABLE deliveries (
    repository   INTEGER NOT NULL,
    id           BIGINT  NOT NULL,
    event        BIGINT  NOT NULL,
    webhook      TEXT    COLLATE "C" NOT NULL,
    -- The project's key: that of the event, and after a move that of its new place, unless the
    -- delivery was delivered before.
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    state        TEXT    COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
    -- Whether it is the oldest pending one of its webhook and project, the one that may be sent.
    is_head      BOOLEAN NOT NULL CHECK (NOT is_head OR state = 'pending'),
    is_delete    BOOLEAN NOT NULL,
    -- The hash of the project id of a delete, and of a delivery that waits for a delete of the same
    -- id in another lane, or that was replayed; else null.
    project_id   BYTEA,
    origin       TEXT    NOT NULL,
    n_attempts   BIGINT  NOT NULL DEFAULT 0,
    -- The attempts made before the schedule was last started over.
    n_attempts_before BIGINT NOT NULL DEFAULT 0,
    n_redeliveries BIGINT NOT NULL DEFAULT 0,
    due_ms       BIGINT  NOT NULL,
    -- Whether the receiver asked for the time of the next attempt.
    is_due_as_asked BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms   BIGINT  NOT NULL,
    -- Since when it is pending: its creation, or its last redelivery.
    waiting_ms   BIGINT  NOT NULL,
    finished_ms  BIGINT,
    last_status  INTEGER,
    last_error   TEXT,
    PRIMARY KEY (repository, id)
);
-- Claims read these alone, so that a million pending deliveries cost no more than ten.
CREATE INDEX deliveries_due ON deliveries (repository, webhook, due_ms, id) WHERE is_head;
-- The order within a webhook and a project.
CREATE INDEX deliveries_lane ON deliveries (repository, webhook, organization, project, event)
    WHERE state = 'pending';
-- The order across lanes. A replay has many deliveries with one project id, and few of them are deletes.
CREATE INDEX deliveries_project_id ON deliveries (repository, webhook, project_id, is_delete, event)
    WHERE state = 'pending' AND project_id IS NOT NULL;
-- Moves of projects.
CREATE INDEX deliveries_undelivered ON deliveries (repository, organization, project)
    WHERE state <> 'delivered';
CREATE INDEX deliveries_event ON deliveries (repository, event);
-- Retention, counts of the others, and the last success.
CREATE INDEX deliveries_finished ON deliveries (repository, webhook, state, finished_ms)
    WHERE finished_ms IS NOT NULL;

CREATE TABLE attempts (
    repository      INTEGER NOT NULL,
    delivery        BIGINT  NOT NULL,
    number          BIGINT  NOT NULL,
    at_ms           BIGINT  NOT NULL,
    duration_ms     BIGINT  NOT NULL,
    status          INTEGER,
    error           TEXT,
    request_headers TEXT    NOT NULL,
    answer          BYTEA   NOT NULL,
    -- The length of the answer before compression. Null if it is not compressed.
    answer_size     BIGINT,
    PRIMARY KEY (repository, delivery, number)
);
