-- Version 2: streams in the order of ids. Hosts of version 1 read them, and fail to append to them: their tables draw no ids.

-- The id of the last event; NULL where the table draws them.
ALTER TABLE tendon.stream ADD COLUMN last_id bigint;
