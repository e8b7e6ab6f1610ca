-- The tables of a database, version 1. Each stream has an events table of its own beside them (table.rs).

-- Fences, incarnations and epochs are drawn from it: none is ever drawn twice, whatever is removed.
CREATE TABLE counter (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO counter VALUES (1, 0);

CREATE TABLE position (
    tenant      TEXT    NOT NULL,
    consumer    TEXT    NOT NULL,
    shard       INTEGER NOT NULL,
    cursor      BLOB    NOT NULL,
    revision    INTEGER NOT NULL,
    fence       INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    status      TEXT    NOT NULL CHECK (status IN ('running', 'blocked', 'paused')),
    reason      TEXT,              -- JSON
    attempts    INTEGER NOT NULL,
    digest      BLOB,
    last_event  BLOB,
    high_water  BLOB    NOT NULL,
    features    INTEGER NOT NULL,  -- 64 bits
    updated_at  INTEGER NOT NULL,  -- microseconds since 1970
    owner       TEXT    NOT NULL,
    PRIMARY KEY (tenant, consumer, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE state (
    tenant   TEXT NOT NULL,
    consumer TEXT NOT NULL,
    part     TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB NOT NULL,
    PRIMARY KEY (tenant, consumer, part, key)
) STRICT, WITHOUT ROWID;

-- The key of every event that was appended here, whatever the stream: none twice.
CREATE TABLE event_key (
    key BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE component (
    digest BLOB NOT NULL PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

CREATE TABLE deployment (
    tenant   TEXT    NOT NULL,
    consumer TEXT    NOT NULL,
    epoch    INTEGER NOT NULL,
    digest   BLOB    NOT NULL,
    spec     TEXT    NOT NULL,     -- JSON
    at       INTEGER NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, epoch)
) STRICT, WITHOUT ROWID;

-- From this revision on a shard's commits were made by this component.
CREATE TABLE history (
    tenant   TEXT    NOT NULL,
    consumer TEXT    NOT NULL,
    shard    INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest   BLOB    NOT NULL,
    epoch    INTEGER NOT NULL,
    at       INTEGER NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, shard, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE stream (
    tenant TEXT NOT NULL,
    name   TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
