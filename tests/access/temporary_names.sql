-- Statements of an attacker: for each type and relation whose name is a word of a function's body, create one of the same
-- name in the temporary schema, which a function that leaves the name to the search_path would evaluate.
WITH words AS (
    SELECT regexp_split_to_table(coalesce(pg_get_function_sqlbody(oid), prosrc), '\W+') AS name
      FROM objects JOIN pg_proc USING (oid)
), types AS (
    SELECT typname AS name, format('%I.%I', nspname, typname) AS sql_name, typrelid AS relation
      FROM pg_type JOIN pg_namespace AS n ON n.oid = typnamespace
     WHERE typname IN (SELECT name FROM words) AND typtype <> 'p' AND typnamespace <> pg_my_temp_schema()
    UNION
    -- Transition tables have the columns of their table.
    SELECT unnest(ARRAY[tgoldtable, tgnewtable]), sql_name, tgrelid FROM objects JOIN pg_trigger ON tgrelid = objects.oid
)
SELECT DISTINCT ON (name) name,
       CASE relation
           WHEN 0 THEN format('CREATE DOMAIN pg_temp.%I AS %s CHECK (pg_temp.report(%L))', name, sql_name, name)
           ELSE format('CREATE VIEW pg_temp.%I AS SELECT %s WHERE pg_temp.report(%L)', name, (
               SELECT string_agg(format('(NULL::%s).%I', sql_name, attname), ', ') FROM pg_attribute
                WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND atttypid <> 'anyarray'::regtype
           ), name)
       END AS statement
  FROM types WHERE name IS NOT NULL ORDER BY name, sql_name
