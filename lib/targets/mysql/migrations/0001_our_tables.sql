-- Our own tables. Times are in UTC.
CREATE TABLE IF NOT EXISTS writebehind_offset (
  stream         VARCHAR(255) NOT NULL PRIMARY KEY,
  last_id        VARCHAR(64) NOT NULL DEFAULT '0-0',
  events         BIGINT NOT NULL DEFAULT 0,
  -- A sink's right to write: a higher one fences off a lower.
  epoch          BIGINT NOT NULL DEFAULT 0,
  owner          VARCHAR(255),
  updated_at     DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  -- The entry that the stream must still hold, and how often it did not.
  witness        VARCHAR(64) NOT NULL DEFAULT '0-0',
  went_back      INT NOT NULL DEFAULT 0,
  went_back_at   DATETIME(3),
  parked_version BIGINT NOT NULL DEFAULT 0,
  -- What it belongs to: the identity of the data in Redis, and the mark of the entity's table.
  source         VARCHAR(64),
  mark           VARCHAR(64),
  -- Why rows may be missing, until a verify has looked; and whether the sink waits until it is adopted.
  doubt          LONGTEXT,
  doubt_at       DATETIME(3),
  refused        TINYINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {collation};

-- A row of its own, so that renewing a lease never waits for a batch.
CREATE TABLE IF NOT EXISTS writebehind_lease (
  stream          VARCHAR(255) NOT NULL PRIMARY KEY,
  owner           VARCHAR(255) NOT NULL,
  epoch           BIGINT NOT NULL,
  -- Past it, the owner's session may be ended; before it, the session's own end frees the partition.
  lease_until     DATETIME(3) NOT NULL,
  granted_seconds DOUBLE NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {collation};

CREATE TABLE IF NOT EXISTS writebehind_dead_letter (
  id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  entity     VARCHAR(64) NOT NULL,
  stream     VARCHAR(255) NOT NULL,
  stream_id  VARCHAR(64) NOT NULL,
  -- Bytes, since they may be no text.
  doc_id     VARBINARY(512),
  event_type LONGTEXT NOT NULL,
  ts         BIGINT,
  payload    LONGBLOB,
  -- Names and values in turn: a JSON array of hexadecimal digits.
  fields     LONGTEXT,
  -- of the server, or our own; empty where an earlier event is to blame
  code       VARCHAR(64) NOT NULL,
  reason     LONGTEXT NOT NULL,
  attempts   INT NOT NULL DEFAULT 1,
  first_at   DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  last_at    DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  -- parked, replayed, superseded (a newer event of the document was replayed) or discarded
  state      VARCHAR(16) NOT NULL DEFAULT 'parked',
  UNIQUE KEY (stream, stream_id),
  KEY writebehind_dead_letter_parked (stream, doc_id, state)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {collation};
