-- Version 4: how often a consumer was divided anew before it had this row. See topology.rs.
ALTER TABLE tendon.position ADD COLUMN topology bigint NOT NULL DEFAULT 0;
