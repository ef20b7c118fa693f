-- Returns the effect of a statement for a role and a user; the exception rolls everything back.
CREATE FUNCTION pg_temp.probe(
    p_role text, p_claims text, p_denied_name text, p_before text, p_statement text, p_found text, p_nothing text
) RETURNS text LANGUAGE plpgsql AS $probe$
DECLARE
    v_rows bigint;
    v_state text;
    v_message text;
BEGIN
    EXECUTE p_before;
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', p_role, true);
    EXECUTE p_statement;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RAISE SQLSTATE 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
    RETURN CASE
        WHEN v_state = 'ZZ000' THEN CASE WHEN v_rows > 0 THEN p_found ELSE p_nothing END
        -- 'no': the role lacks the privilege. '-': a policy refused, or a privilege on an underlying object is missing.
        WHEN v_state = '42501' AND v_message ~ format('permission denied for (\w+ )+%s$', p_denied_name) THEN 'no'
        WHEN v_state = '42501' THEN '-'
        -- The table refuses the statement to every role; trigger functions cannot be called.
        WHEN v_state IN ('23001', '0A000') THEN 'never'
        ELSE format('%s %s', v_state, v_message)
    END;
END
$probe$
