-- Version 2: events that were set aside. What a record holds is in dead_letter.rs. Hosts of version 1 set none aside.
CREATE TABLE IF NOT EXISTS tendon_dead_letter (
    tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event    VARBINARY(255) NOT NULL,
    shard    BIGINT         NOT NULL,
    at       BIGINT         NOT NULL, -- microseconds since 1970
    metadata LONGBLOB       NOT NULL,
    record   LONGTEXT       NOT NULL, -- JSON
    redrive_at BIGINT,                -- since when it is to be handled again
    PRIMARY KEY (tenant, consumer, event),
    KEY tendon_dead_letter_at (tenant, consumer, at, event),
    KEY tendon_dead_letter_redrive (tenant, consumer, redrive_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
