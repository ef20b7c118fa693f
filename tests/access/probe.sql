-- Says what a statement does for a role and a user, and leaves no trace: the exception rolls everything back.
CREATE FUNCTION pg_temp.probe(
    p_role text, p_claims text, p_door text, p_before text, p_statement text, p_found text, p_nothing text
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
        -- Refused at the door, or inside: by a policy, or for want of a right to what lies behind.
        WHEN v_state = '42501' AND v_message ~ format('permission denied for (\w+ )+%s$', p_door) THEN 'no'
        WHEN v_state = '42501' THEN '-'
        -- The table refuses it to everybody; a trigger's function cannot be called.
        WHEN v_state IN ('23001', '0A000') THEN 'never'
        ELSE format('%s %s', v_state, v_message)
    END;
END
$probe$
