-- Our own tables and an entity's. Times are in UTC. A text of no characters is NULL in Oracle: where one may be
-- empty, its column may be NULL. CREATE TABLE knows no IF NOT EXISTS before 23ai.
CREATE TABLE writebehind_offset (
  stream         VARCHAR2(255) NOT NULL PRIMARY KEY,
  last_id        VARCHAR2(64) DEFAULT '0-0' NOT NULL,
  events         NUMBER(19) DEFAULT 0 NOT NULL,
  -- A sink's right to write: a higher one fences off a lower.
  epoch          NUMBER(19) DEFAULT 0 NOT NULL,
  owner          VARCHAR2(255),
  updated_at     TIMESTAMP(3),
  -- The entry that the stream must still hold.
  witness        VARCHAR2(64) DEFAULT '0-0' NOT NULL,
  parked_version NUMBER(19) DEFAULT 0 NOT NULL
);

-- A row of its own, so that renewing a lease never waits for a batch.
CREATE TABLE writebehind_lease (
  stream      VARCHAR2(255) NOT NULL PRIMARY KEY,
  owner       VARCHAR2(255) NOT NULL,
  epoch       NUMBER(19) NOT NULL,
  lease_until TIMESTAMP(3) NOT NULL
);

CREATE TABLE writebehind_dead_letter (
  stream        VARCHAR2(255) NOT NULL,
  stream_id     VARCHAR2(64) NOT NULL,
  entity        VARCHAR2(64) NOT NULL,
  -- Bytes, since they may be no text.
  doc_id        RAW(512),
  event_type    VARCHAR2(4000),
  ts            NUMBER(19),
  payload       BLOB,
  -- Whether there is a payload: one of no bytes is NULL as well.
  payload_there NUMBER(1) NOT NULL,
  -- Names and values in turn: a JSON array of hexadecimal digits.
  fields        CLOB,
  code          VARCHAR2(64),
  reason        CLOB,
  attempts      NUMBER(10) DEFAULT 1 NOT NULL,
  first_at      TIMESTAMP(3) NOT NULL,
  last_at       TIMESTAMP(3) NOT NULL,
  state         VARCHAR2(16) DEFAULT 'parked' NOT NULL,
  PRIMARY KEY (stream, stream_id)
);

-- A payload is the event's text, untouched: the type JSON of Oracle would change numbers.
CREATE TABLE {table} (
  id         VARCHAR2(512 BYTE) NOT NULL PRIMARY KEY,
  payload    CLOB,
  created_at TIMESTAMP(3),
  updated_at TIMESTAMP(3) NOT NULL,
  version    NUMBER(19) DEFAULT 0 NOT NULL
);
