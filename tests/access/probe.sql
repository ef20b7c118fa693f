-- Returns the effects of statements, each for a role and a user, in the state that p_before makes; exceptions roll all back.
CREATE FUNCTION pg_temp.probe(
    p_before text, p_roles text[], p_claims text[], p_denied_names text[], p_statements text[], p_found text[],
    p_nothing text[]
) RETURNS text[] LANGUAGE plpgsql AS $probe$
DECLARE
    v_effects text[];
    v_rows bigint;
    v_state text;
    v_message text;
BEGIN
    EXECUTE p_before;
    FOR v_place IN 1 .. cardinality(p_statements) LOOP
        BEGIN
            PERFORM set_config('request.jwt.claims', p_claims[v_place], true), set_config('role', p_roles[v_place], true);
            EXECUTE p_statements[v_place];
            GET DIAGNOSTICS v_rows = ROW_COUNT;
            RAISE SQLSTATE 'ZZ000';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
            v_effects[v_place] := CASE
                WHEN v_state = 'ZZ000' THEN CASE WHEN v_rows > 0 THEN p_found[v_place] ELSE p_nothing[v_place] END
                -- 'no': the role lacks the privilege. '-': a policy refused, or a privilege on an underlying object is missing.
                WHEN v_state = '42501' AND v_message ~ format('permission denied for (\w+ )+%s$', p_denied_names[v_place])
                    THEN 'no'
                WHEN v_state = '42501' THEN '-'
                -- The table refuses the statement to every role; trigger functions cannot be called.
                WHEN v_state IN ('23001', '0A000') THEN 'never'
                ELSE format('%s %s', v_state, v_message)
            END;
        END;
    END LOOP;
    RAISE SQLSTATE 'ZZ001';
EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
    RETURN v_effects;
END
$probe$
