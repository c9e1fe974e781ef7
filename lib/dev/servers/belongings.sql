-- Gives the application's role all that the owner has made in the database, as versions from before the roles did.
DO $$ DECLARE statement text; BEGIN
  FOR statement IN
    SELECT format('ALTER SCHEMA %I OWNER TO {application}', nspname) FROM pg_namespace
     WHERE nspowner = 10 AND nspname !~ '^(pg_|information_schema$)'
    UNION ALL
    SELECT format('ALTER %s %s OWNER TO {application}',
             CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
                          WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, oid::regclass)
      FROM pg_class c
     WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'S')
       AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
       -- A column's sequence goes with its table.
       AND NOT (relkind = 'S' AND EXISTS (
             SELECT FROM pg_depend d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
    UNION ALL
    SELECT format('ALTER ROUTINE %s OWNER TO {application}', oid::regprocedure) FROM pg_proc
     WHERE proowner = 10 AND pronamespace::regnamespace::text !~ '^(pg_|information_schema$)'
  LOOP EXECUTE statement; END LOOP;
END $$;

