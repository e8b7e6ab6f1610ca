-- Version 6: the microseconds that a redrive leaves between two of its events.
ALTER TABLE tendon.dead_letter ADD COLUMN redrive_pace bigint;
