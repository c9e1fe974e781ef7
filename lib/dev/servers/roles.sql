-- What gives a data folder its roles and their passwords; run by `postgres --single -j`, where a blank line ends a
-- statement. Versions from before the roles had one superuser, named as the application's role is now: it becomes the
-- owner. A session cannot rename its own user.
DO $$ BEGIN
  IF (SELECT rolname FROM pg_roles WHERE oid = 10) = '{application}' THEN
    CREATE ROLE taking_over SUPERUSER;
    SET SESSION AUTHORIZATION taking_over;
    ALTER ROLE {application} RENAME TO {owner};
    SET SESSION AUTHORIZATION {owner};
    DROP ROLE taking_over;
  END IF;
  IF to_regrole('{application}') IS NULL THEN CREATE ROLE {application}; END IF;
END $$;

ALTER ROLE {owner} LOGIN PASSWORD '{ownerPassword}';

ALTER ROLE {application} LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD '{applicationPassword}';

-- It may act as the roles that it makes.
ALTER ROLE {application} SET createrole_self_grant = 'set, inherit';

GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO {application};

DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT datname FROM pg_database
               WHERE datdba = 10 AND datname NOT IN ('postgres', 'template0', 'template1')
  LOOP EXECUTE format('ALTER DATABASE %I OWNER TO {application}', name); END LOOP;
END $$;

