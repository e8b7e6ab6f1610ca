-- The order service's table, as it would be without tendon.

CREATE TABLE order_events (
    id         BIGINT AUTO_INCREMENT PRIMARY KEY,
    foreign_id VARCHAR(255) NOT NULL, -- the order
    timestamp  DATETIME(6) NOT NULL,  -- in UTC
    type       INT NOT NULL,          -- 1 placed, 2 paid, 3 refunded, 4 cancelled
    metadata   BLOB                   -- JSON
) DEFAULT CHARSET=utf8mb4;

-- What `balances` emits: a table that any program can read.

CREATE TABLE invoices (
    id         BIGINT AUTO_INCREMENT PRIMARY KEY,
    foreign_id VARCHAR(255) NOT NULL, -- the order
    timestamp  DATETIME(6) NOT NULL,  -- in UTC
    type       INT NOT NULL,          -- 1 invoice, 2 credit note
    metadata   BLOB                   -- JSON
) DEFAULT CHARSET=utf8mb4;

INSERT INTO order_events (foreign_id, timestamp, type, metadata) VALUES
    ('order-1001', '2026-11-02 09:10:00', 1, '{"customer": "ada", "cents": 4990, "item": "a lamp"}'),
    ('order-1002', '2026-11-02 09:12:00', 1, '{"customer": "grace", "cents": 1250, "item": "a notebook"}'),
    ('order-1001', '2026-11-02 09:14:00', 2, '{"method": "card"}'),
    ('order-1003', '2026-11-02 09:16:00', 1, '{"customer": "edsger", "cents": 89900, "item": "a desk"}'),
    ('order-1002', '2026-11-02 09:18:00', 2, '{"method": "transfer"}'),
    ('order-1004', '2026-11-02 09:20:00', 1, '{"customer": "ada", "cents": 1250, "item": "a notebook"}'),
    ('order-1003', '2026-11-02 09:22:00', 2, '{"method": "card"}'),
    ('order-1005', '2026-11-02 09:24:00', 1, '{"customer": "barbara", "cents": 15900, "item": "a chair"}'),
    ('order-1004', '2026-11-02 09:26:00', 4, '{"reason": "changed her mind"}'),
    ('order-1006', '2026-11-02 09:28:00', 1, '{"customer": "grace", "cents": 4990, "item": "a lamp"}'),
    ('order-1005', '2026-11-02 09:30:00', 2, '{"method": "card"}'),
    ('order-1006', '2026-11-02 09:32:00', 2, '{"method": "card"}'),
    ('order-1003', '2026-11-02 09:34:00', 3, '{"reason": "one leg was short"}'),
    ('order-1007', '2026-11-02 09:36:00', 1, '{"customer": "edsger", "cents": 89900, "item": "a desk"}'),
    ('order-1008', '2026-11-02 09:38:00', 1, '{"customer": "ada", "cents": 640, "item": "two pencils"}'),
    ('order-1007', '2026-11-02 09:40:00', 2, '{"method": "card"}'),
    ('order-1008', '2026-11-02 09:42:00', 2, '{"method": "card"}'),
    ('order-1009', '2026-11-02 09:44:00', 1, '{"customer": "barbara", "cents": 1250, "item": "a notebook"}');
