-- Version 6: the microseconds that a redrive leaves between two of its events.
ALTER TABLE dead_letter ADD COLUMN redrive_pace INTEGER;
