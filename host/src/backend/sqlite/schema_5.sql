-- Version 5: events that wait for one of their key. What a record holds is in dead_letter.rs.
CREATE TABLE parked (
    tenant   TEXT    NOT NULL,
    consumer TEXT    NOT NULL,
    key      BLOB    NOT NULL,
    place    INTEGER NOT NULL,
    event    BLOB    NOT NULL,
    shard    INTEGER NOT NULL,
    at       INTEGER NOT NULL, -- microseconds since 1970
    metadata BLOB    NOT NULL,
    record   TEXT    NOT NULL, -- JSON
    redrive_at INTEGER,        -- when it is tried again
    PRIMARY KEY (tenant, consumer, key, place)
) STRICT, WITHOUT ROWID;
