-- An entity's table. Ids are compared byte for byte; a payload is the event's text, untouched.
CREATE TABLE IF NOT EXISTS {table} (
  id         VARCHAR(512) NOT NULL PRIMARY KEY,
  payload    LONGTEXT,
  created_at DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3),
  updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  version    BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {collation};
