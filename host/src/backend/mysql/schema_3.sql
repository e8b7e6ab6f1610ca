-- Version 3: how often a consumer was divided anew before it had this row. See topology.rs. Where the column is there already a
-- host has ended before it could say so.
ALTER TABLE tendon_position ADD COLUMN topology BIGINT NOT NULL DEFAULT 0;
