-- Version 5: events that wait for one of their key. What a record holds is in dead_letter.rs.
CREATE TABLE tendon.parked (
    tenant   text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    key      bytea  NOT NULL,
    place    bigint NOT NULL,
    event    bytea  NOT NULL,
    shard    bigint NOT NULL,
    at       bigint NOT NULL,     -- microseconds since 1970
    metadata bytea  NOT NULL,
    record   text   NOT NULL,     -- JSON
    redrive_at bigint,            -- when it is tried again
    PRIMARY KEY (tenant, consumer, key, place)
);
