-- Version 5: the microseconds that a redrive leaves between two of its events. Where the column is there already a host has
-- ended before it could say so.
ALTER TABLE tendon_dead_letter ADD COLUMN redrive_pace BIGINT;
