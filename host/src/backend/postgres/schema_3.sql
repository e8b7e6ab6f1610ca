-- Version 3: events that were set aside. What a record holds is in dead_letter.rs. Hosts of version 2 set none aside.
CREATE TABLE tendon.dead_letter (
    tenant   text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    event    bytea  NOT NULL,
    shard    bigint NOT NULL,
    at       bigint NOT NULL,     -- microseconds since 1970
    metadata bytea  NOT NULL,
    record   text   NOT NULL,     -- JSON
    redrive_at bigint,            -- since when it is to be handled again
    PRIMARY KEY (tenant, consumer, event)
);

CREATE INDEX dead_letter_at ON tendon.dead_letter (tenant, consumer, at, event);

CREATE INDEX dead_letter_redrive ON tendon.dead_letter (tenant, consumer, redrive_at) WHERE redrive_at IS NOT NULL;
