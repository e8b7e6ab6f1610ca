-- The tables of a database, version 1. Each stream has an events table of its own beside them (table.rs).

-- Fences, incarnations and epochs are drawn from it: none is ever drawn twice, whatever is removed.
CREATE SEQUENCE tendon.counter AS bigint CACHE 1;

-- Transaction ids start anew in another cluster: a restore or an upgrade begins the next era (source.rs).
CREATE TABLE tendon.era (
    era               bigint PRIMARY KEY,
    system_identifier bigint NOT NULL
);

CREATE TABLE tendon.position (
    tenant      text COLLATE "C" NOT NULL,
    consumer    text COLLATE "C" NOT NULL,
    shard       bigint NOT NULL,
    cursor      bytea  NOT NULL,
    revision    bigint NOT NULL,
    fence       bigint NOT NULL,
    incarnation bigint NOT NULL,
    generation  bigint NOT NULL,
    epoch       bigint NOT NULL,
    status      text   NOT NULL CHECK (status IN ('running', 'blocked', 'paused')),
    reason      text,             -- JSON
    attempts    bigint NOT NULL,
    digest      bytea,
    last_event  bytea,
    high_water  bytea  NOT NULL,
    features    bigint NOT NULL,  -- 64 bits
    updated_at  bigint NOT NULL,  -- microseconds since 1970
    owner       text   NOT NULL,
    PRIMARY KEY (tenant, consumer, shard)
) WITH (fillfactor = 50);         -- room for HOT updates: every commit moves a row

CREATE TABLE tendon.state (
    tenant   text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    part     bytea NOT NULL,      -- bytes, not text: the order is theirs, and a text cannot hold NUL
    key      bytea NOT NULL,
    value    bytea NOT NULL,
    PRIMARY KEY (tenant, consumer, part, key)
) WITH (fillfactor = 80);

-- The key of every event that was appended here, whatever the stream: none twice.
CREATE TABLE tendon.event_key (
    key bytea PRIMARY KEY
);

CREATE TABLE tendon.component (
    digest bytea PRIMARY KEY,
    bytes  bytea NOT NULL
);

CREATE TABLE tendon.deployment (
    tenant   text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    epoch    bigint NOT NULL,
    digest   bytea  NOT NULL,
    spec     text   NOT NULL,     -- JSON
    at       bigint NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, epoch)
);

-- From this revision on a shard's commits were made by this component.
CREATE TABLE tendon.history (
    tenant   text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    shard    bigint NOT NULL,
    revision bigint NOT NULL,
    digest   bytea  NOT NULL,
    epoch    bigint NOT NULL,
    at       bigint NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, shard, revision)
);

-- A table's name has room for 63 bytes, a tenant and a stream for twice that: so tables have numbers.
CREATE TABLE tendon.stream (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    name   text COLLATE "C" NOT NULL,
    UNIQUE (tenant, name)
);
