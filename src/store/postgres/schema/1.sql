-- Columns that end in _ms or _ns are times, in milliseconds or nanoseconds since the Unix epoch.
-- Only duration_ms is a duration. States, roles and kinds are the words that listings show.
--
-- Each row has the id of its repository, because several repositories can share one database. Keys
-- are compared by their bytes (COLLATE "C"), as the program does. A row of an index has at most
-- 2,700 bytes. So for a text of unlimited length, the index contains a hash.

CREATE TABLE repositories (
    id               INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             TEXT COLLATE "C" NOT NULL UNIQUE,
    -- The numbers for the next event and the next delivery. A number is never reused.
    next_event       BIGINT  NOT NULL DEFAULT 1,
    next_delivery    BIGINT  NOT NULL DEFAULT 1,
    -- The lowest repetition for new event ids. The ids of all removed events have lower
    -- repetitions.
    first_repetition BIGINT  NOT NULL DEFAULT 0,
    -- The last event that was checked for removal. All earlier events were checked as well.
    last_swept_event BIGINT  NOT NULL DEFAULT 0,
    -- The key of the fingerprints of webhooks' settings, encrypted with the database password.
    fingerprint_key  BYTEA   NOT NULL,
    -- A random value of the last recorded batch. A process that lost its connection during a commit
    -- compares it with the value of its own batch.
    last_batch       BYTEA,
    -- The epoch of the lease. Each commit of a holder checks it.
    epoch            BIGINT  NOT NULL DEFAULT 0,
    -- The number of transactions that wrote. A listing that follows new rows compares it.
    version          BIGINT  NOT NULL DEFAULT 0,
    -- The number of changes by operators. A process that missed a notification compares it.
    changes          BIGINT  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The process that has the lease on a repository. Each grant of the lease has a higher epoch. This
-- is a separate table, because a renewal must not wait for a long commit, which locks the
-- repository's row.
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

-- The processes that deliver. Each has a lease, which expires unless the process renews it.
CREATE TABLE senders (
    id           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository   INTEGER     NOT NULL,
    name         TEXT        NOT NULL,
    since        TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    seen         TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    leased_until TIMESTAMPTZ NOT NULL,
    -- The number of transactions that recorded results. A listing that follows new rows compares
    -- it.
    n_recordings BIGINT      NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The deliveries that a sender sends now or next. A delivery's webhook, organization and project
-- are its lane. No other sender claims a delivery of the same lane.
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

-- Facts about whole repositories.
CREATE TABLE meta (
    repository INTEGER NOT NULL,
    key        TEXT    COLLATE "C" NOT NULL,
    value      TEXT    NOT NULL,
    PRIMARY KEY (repository, key)
);

-- Compressed payloads. Each content is stored only once.
CREATE TABLE payloads (
    repository INTEGER NOT NULL,
    hash       BYTEA   NOT NULL,
    size       BIGINT  NOT NULL,
    compressed BYTEA   NOT NULL,
    PRIMARY KEY (repository, hash)
);
ALTER TABLE payloads ALTER COLUMN compressed SET STORAGE EXTERNAL;

-- The record: the files of each project as they were last observed.
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
    -- The hash of the project's identity, in the row of its definition. The kept definition of a
    -- deleted project has it too. Null for copies.
    identity     BYTEA,
    PRIMARY KEY (repository, organization, project, path_hash)
);
CREATE INDEX files_identity ON files (repository, identity) WHERE identity IS NOT NULL;
-- Finds the definitions that need a payload.
CREATE INDEX files_definition ON files (repository, hash) WHERE identity IS NOT NULL;

-- Invalid files, which are ignored. Files outside any project have an empty organization and
-- project.
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
    -- The repetition from which the id is computed.
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

-- The moves of projects, which determine the lanes of replayed events. A move concerns the events
-- of its former key up to last_event. All moves of a batch happen at once, so projects may exchange
-- keys.
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

-- The state of webhooks that is not in the configuration.
CREATE TABLE webhooks (
    repository        INTEGER NOT NULL,
    name              TEXT    COLLATE "C" NOT NULL,
    fingerprint       BYTEA,
    off_cause         TEXT    CHECK (off_cause IN ('gone', 'operator')),
    off_reason        TEXT,
    off_at_ms         BIGINT,
    last_error        TEXT,
    last_error_ms     BIGINT,
    -- The end of the pause that the receiver requested, and the time of that request.
    rests_until_ms    BIGINT,
    rests_since_ms    BIGINT,
    -- The time of the last success among removed deliveries. Other deliveries have their own times.
    last_delivered_ms BIGINT,
    -- The only sender that may send, while requests are limited to a rate. Null if all may send.
    sole_sender       BIGINT,
    PRIMARY KEY (repository, name)
);

-- The webhooks to which an event of a project was routed. They also receive later deletes and moves
-- of the project, even if their filters do not select these events.
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
    -- The key of the project, at first as in the event. If the project moves, all deliveries that
    -- are not delivered get its new key.
    organization TEXT    COLLATE "C" NOT NULL,
    project      TEXT    COLLATE "C" NOT NULL,
    state        TEXT    COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
    -- Whether the delivery is the head of its lane, which may be sent: the oldest pending delivery
    -- of its webhook and project, unless that one waits for a delete in another lane.
    is_head      BOOLEAN NOT NULL CHECK (NOT is_head OR state = 'pending'),
    is_delete    BOOLEAN NOT NULL,
    -- The hash of the project id. Only for deletes, for replayed and redelivered deliveries, and
    -- for deliveries that had to wait for a delete of the same id in another lane.
    project_id   BYTEA,
    origin       TEXT    NOT NULL,
    n_attempts   BIGINT  NOT NULL DEFAULT 0,
    -- The number of attempts that use up no step of the present schedule.
    n_attempts_before BIGINT NOT NULL DEFAULT 0,
    n_redeliveries BIGINT NOT NULL DEFAULT 0,
    due_ms       BIGINT  NOT NULL,
    -- Whether the receiver asked for the time of the next attempt.
    is_due_as_asked BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms   BIGINT  NOT NULL,
    -- When the delivery last became pending: at its creation or at a redelivery.
    waiting_ms   BIGINT  NOT NULL,
    finished_ms  BIGINT,
    last_status  INTEGER,
    last_error   TEXT,
    PRIMARY KEY (repository, id)
);
-- A claim reads only heads of lanes, so it costs the same with ten and a million pending
-- deliveries.
CREATE INDEX deliveries_due ON deliveries (repository, webhook, due_ms, id) WHERE is_head;
-- The order of deliveries within a lane.
CREATE INDEX deliveries_lane ON deliveries (repository, webhook, organization, project, event)
    WHERE state = 'pending';
-- Finds the delete in another lane for which a delivery waits. After a replay, a project id may
-- have many pending deliveries and few deletes, so is_delete is part of the index.
CREATE INDEX deliveries_project_id ON deliveries (repository, webhook, project_id, is_delete, event)
    WHERE state = 'pending' AND project_id IS NOT NULL;
-- Finds the deliveries that move with a project.
CREATE INDEX deliveries_undelivered ON deliveries (repository, organization, project)
    WHERE state <> 'delivered';
CREATE INDEX deliveries_event ON deliveries (repository, event);
-- For retention, for counts of deliveries that are not pending, and for the time of the last
-- success.
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
