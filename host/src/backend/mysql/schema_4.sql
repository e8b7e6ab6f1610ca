-- Version 4: events that wait for one of their key. What a record holds is in dead_letter.rs; a key is as a part of a state is.
CREATE TABLE IF NOT EXISTS tendon_parked (
    tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    `key`    VARBINARY(255) NOT NULL,
    place    BIGINT         NOT NULL,
    event    VARBINARY(255) NOT NULL,
    shard    BIGINT         NOT NULL,
    at       BIGINT         NOT NULL, -- microseconds since 1970
    metadata LONGBLOB       NOT NULL,
    record   LONGTEXT       NOT NULL, -- JSON
    redrive_at BIGINT,                -- when it is tried again
    PRIMARY KEY (tenant, consumer, `key`, place)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
