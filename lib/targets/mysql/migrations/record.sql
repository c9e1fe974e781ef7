-- Which migrations have run. Every version reads these columns, so they stay as they are.
CREATE TABLE IF NOT EXISTS writebehind_migration (
  number     INT NOT NULL,
  -- The entity's table that it ran for; empty where it was for our own.
  table_name VARCHAR(64) NOT NULL,
  -- The oldest version that can still work with the tables since then.
  oldest     INT NOT NULL,
  ran_at     DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  PRIMARY KEY (number, table_name)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {collation};
