-- The tables of a database, version 1. Each stream has an events table of its own beside them (table.rs). DDL commits at
-- once here, so every statement can be said again after one of them was the last.

-- Fences, incarnations and epochs are drawn from it: none is ever drawn twice, whatever is removed.
CREATE TABLE IF NOT EXISTS tendon_counter (
    id    TINYINT PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

INSERT INTO tendon_counter (id, value) VALUES (1, 0) ON DUPLICATE KEY UPDATE value = value;

CREATE TABLE IF NOT EXISTS tendon_position (
    tenant      VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer    VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    shard       BIGINT      NOT NULL,
    `cursor`    LONGBLOB    NOT NULL,
    revision    BIGINT      NOT NULL,
    fence       BIGINT      NOT NULL,
    incarnation BIGINT      NOT NULL,
    generation  BIGINT      NOT NULL,
    epoch       BIGINT      NOT NULL,
    status      VARCHAR(16) NOT NULL, -- running, blocked or paused
    reason      LONGTEXT,             -- JSON
    attempts    BIGINT      NOT NULL,
    digest      BINARY(32),
    last_event  BINARY(32),
    high_water  LONGBLOB    NOT NULL,
    features    BIGINT      NOT NULL, -- 64 bits
    updated_at  BIGINT      NOT NULL, -- microseconds since 1970
    owner       LONGTEXT    NOT NULL,
    PRIMARY KEY (tenant, consumer, shard)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Parts and keys are bytes, not text: their order is that of bytes, and no collation takes two for one. An index has no
-- room for a part of any length: a long one is in its place by its hash (store.rs).
CREATE TABLE IF NOT EXISTS tendon_state (
    tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    part     VARBINARY(255)  NOT NULL,
    `key`    VARBINARY(1024) NOT NULL,
    value    LONGBLOB        NOT NULL,
    PRIMARY KEY (tenant, consumer, part, `key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The key of every event that was appended here, whatever the stream: none twice.
CREATE TABLE IF NOT EXISTS tendon_event_key (
    `key` BINARY(16) PRIMARY KEY
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- In pieces: a component can be bigger than what a server takes or sends at once.
CREATE TABLE IF NOT EXISTS tendon_component (
    digest BINARY(32) NOT NULL,
    piece  BIGINT     NOT NULL,
    bytes  LONGBLOB   NOT NULL,
    PRIMARY KEY (digest, piece)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS tendon_deployment (
    tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    epoch    BIGINT     NOT NULL,
    digest   BINARY(32) NOT NULL,
    spec     LONGTEXT   NOT NULL, -- JSON
    at       BIGINT     NOT NULL, -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, epoch)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- From this revision on a shard's commits were made by this component.
CREATE TABLE IF NOT EXISTS tendon_history (
    tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    shard    BIGINT     NOT NULL,
    revision BIGINT     NOT NULL,
    digest   BINARY(32) NOT NULL,
    epoch    BIGINT     NOT NULL,
    at       BIGINT     NOT NULL, -- microseconds since 1970
    PRIMARY KEY (tenant, consumer, shard, revision)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A table's name has room for 64 letters, a tenant and a stream for twice that: so tables have numbers. The id of a
-- stream's newest event is here: whoever appends moves it, and so waits for whoever else does.
CREATE TABLE IF NOT EXISTS tendon_stream (
    number  BIGINT AUTO_INCREMENT PRIMARY KEY,
    tenant  VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name    VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    last_id BIGINT  NOT NULL,
    is_made TINYINT NOT NULL, -- whether its table is there
    UNIQUE KEY (tenant, name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
