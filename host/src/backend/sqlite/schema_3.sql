-- Version 3: events that were set aside. What a record holds is in dead_letter.rs.
CREATE TABLE dead_letter (
    tenant   TEXT    NOT NULL,
    consumer TEXT    NOT NULL,
    event    BLOB    NOT NULL,
    shard    INTEGER NOT NULL,
    at       INTEGER NOT NULL, -- microseconds since 1970
    metadata BLOB    NOT NULL,
    record   TEXT    NOT NULL, -- JSON
    redrive_at INTEGER,        -- since when it is to be handled again
    PRIMARY KEY (tenant, consumer, event)
) STRICT, WITHOUT ROWID;

CREATE INDEX dead_letter_at ON dead_letter (tenant, consumer, at, event);

CREATE INDEX dead_letter_redrive ON dead_letter (tenant, consumer, redrive_at) WHERE redrive_at IS NOT NULL;
