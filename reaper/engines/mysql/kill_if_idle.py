"""kill_if_idle, a procedure that an operator may install on MySQL and MariaDB: it looks at a
session and kills it within the server. Pure text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reaper.model import Mark, Outcome

SCHEMA, ROUTINE = "reaper", "kill_if_idle"
NAME = f"{SCHEMA}.{ROUTINE}"
# Seconds; no session that slept for less is killed, whoever calls the procedure
LEAST_IDLE = 30.0

OUTCOMES = {
    "killed": Outcome.SIGNALLED,
    "changed": Outcome.CHANGED,
    "gone": Outcome.GONE,
    "refused": Outcome.REFUSED,
}


def create(
    *, definer: str, kill: str, protected: Collection[str], least_idle: float, is_mariadb: bool
) -> str:
    """The statement that creates the procedure.

    It runs with the rights of `definer`, to whom the statement `kill` is allowed, which ends the
    session `victim`; accounts in `protected` are refused, and who slept for less than `least_idle`
    seconds.
    """
    return _CREATE.format(
        name=NAME,
        definer=definer,
        look=_LOOK_MARIADB if is_mariadb else _LOOK_MYSQL,
        protected=_wrapped([f"'{name}'" for name in sorted(protected)]),
        least_idle=f"{least_idle:g}",
        kill=kill,
        blind="" if is_mariadb else "NOT @@GLOBAL.performance_schema AND ",
    )


def call(id_: int, mark: Mark) -> str:
    """The statement that kills this session if it is still in the sleep that the mark describes.

    Its answer is a key of `OUTCOMES`, and why.
    """
    user, host, statement = mark.key
    last = "NULL" if statement is None else f"{statement:d}"
    return f"CALL {NAME}({id_:d}, {_text(user)}, {_text(host)}, {_least_time(mark)}, {last})"


def _wrapped(names: Sequence[str]) -> str:
    """A list with a few names on each line, for people to read."""
    return ",\n      ".join(", ".join(names[at : at + 5]) for at in range(0, len(names), 5))


def _text(name: object) -> str:
    """A name as a literal that cannot end early: hexadecimal, whatever the server's sql_mode says
    of quotes.
    """
    return "NULL" if name is None else f"_utf8mb4 X'{str(name).encode().hex()}'"


def _least_time(mark: Mark) -> str:
    """What the process list's Time must have grown to by now, reckoned by the server's own clock.

    A sleep can only have begun later than the one that was seen, never earlier, so a lower limit
    is enough.
    """
    if not mark.since:
        # The last statement alone identifies the sleep
        return "NULL"
    # No slack: Time is in whole seconds, and so is this
    clock = "SYSDATE(6)" if mark.slack else "SYSDATE()"
    return f"UNIX_TIMESTAMP({clock}) - {mark.since + mark.slack:.6f}"


# Only static SQL: what a caller says is compared and never becomes part of a statement. `from_host`
# includes the port; `least_time` and, on MySQL, `last_statement` may be NULL. Errors, 1094 and
# those of missing rights among them, reach the caller as they are. No apostrophes in the SQL
# comments: they would confuse clients.
_CREATE = """\
CREATE DEFINER = {definer} PROCEDURE {name}(
  IN victim BIGINT UNSIGNED,
  IN of_user VARCHAR(256) CHARACTER SET utf8mb4,
  IN from_host VARCHAR(512) CHARACTER SET utf8mb4,
  IN least_time DECIMAL(20, 6),
  IN last_statement BIGINT UNSIGNED
)
SQL SECURITY DEFINER
READS SQL DATA
COMMENT 'Kills a session that is still in the same sleep'
BEGIN
  DECLARE found_user, own_user VARCHAR(256) CHARACTER SET utf8mb4;
  DECLARE found_host VARCHAR(512) CHARACTER SET utf8mb4;
  DECLARE found_command VARCHAR(64);
  DECLARE found_time, idle DECIMAL(20, 6);
  DECLARE found_statement BIGINT UNSIGNED;
  DECLARE awake, transactions INT DEFAULT 0;
  DECLARE trx_age DECIMAL(20, 6);
  DECLARE zone VARCHAR(64) DEFAULT @@SESSION.time_zone;

  -- Whoever reads innodb_trx without pause keeps the server from renewing it. A transaction of this
  -- session tells how old the list is: a session that has slept for longer than that cannot have
  -- begun another transaction since. trx_started is in the time zone of the system, whatever the
  -- caller has set.
  SET SESSION time_zone = 'SYSTEM';
  START TRANSACTION WITH CONSISTENT SNAPSHOT;
  SELECT UNIX_TIMESTAMP(SYSDATE()) - UNIX_TIMESTAMP(MAX(trx_started)) INTO trx_age
    FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID();
  -- Without PROCESS this is an error, where the process list would just leave the others out, as if
  -- they had gone.
  SELECT COUNT(*) INTO transactions FROM information_schema.innodb_trx
    WHERE trx_mysql_thread_id = victim;
  COMMIT;
  SET SESSION time_zone = zone;
{look}
  SET own_user = LEFT(USER(),
    CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1);

  IF found_command IS NULL THEN
    SELECT 'gone' AS outcome, 'there is no such session' AS why;
  ELSEIF found_user = own_user OR found_user IN (
      {protected}) THEN
    SELECT 'refused' AS outcome, 'this account is never killed' AS why;
  ELSEIF found_command <> 'Sleep' OR awake THEN
    SELECT 'changed' AS outcome, 'it is awake' AS why;
  ELSEIF NOT (CAST(found_user AS BINARY) <=> CAST(of_user AS BINARY))
      OR NOT (CAST(found_host AS BINARY) <=> CAST(from_host AS BINARY)) THEN
    SELECT 'changed' AS outcome, 'it is another session' AS why;
  ELSEIF found_time IS NULL OR found_time < COALESCE(least_time, 0)
      OR NOT (COALESCE(last_statement, found_statement) <=> found_statement) THEN
    SELECT 'changed' AS outcome, 'it is another sleep' AS why;
  ELSEIF COALESCE(idle, 0) < {least_idle} THEN
    SELECT 'refused' AS outcome, 'it has been idle for less than {least_idle} seconds' AS why;
  ELSEIF {blind}COALESCE(trx_age, 1e9) > GREATEST(COALESCE(idle, 0), 2) THEN
    SELECT 'refused' AS outcome,
           'somebody reads innodb_trx without pause, so transactions may not show' AS why;
  ELSEIF transactions > 0 THEN
    SELECT 'refused' AS outcome, 'it is in a transaction' AS why;
  ELSE
    {kill};
    SELECT 'killed' AS outcome, 'it was idle' AS why;
  END IF;
END"""

_LOOK_MARIADB = """
  SELECT USER, HOST, COMMAND, TIME_MS * 0.001, TIME_MS * 0.001, QUERY_ID
    INTO found_user, found_host, found_command, found_time, idle, found_statement
    FROM information_schema.processlist WHERE ID = victim;
  -- To a role the server shows no port. QUERY_ID counts for the whole server, so it identifies the
  -- session as well.
  IF found_host = REGEXP_REPLACE(from_host, ':[0-9]+$', '') THEN
    SET from_host = found_host;
  END IF;
  SET last_statement = COALESCE(last_statement, 0);
"""

# Time counts from the start of the last statement, so where its end can be read, that tells how
# long the session has been idle. It is read last: a session that woke after the process list was
# read has begun another statement.
_LOOK_MYSQL = """
  IF @@GLOBAL.performance_schema THEN
    SELECT transactions + COUNT(*) INTO transactions
      FROM performance_schema.threads AS t
      STRAIGHT_JOIN performance_schema.events_transactions_current AS x ON x.THREAD_ID = t.THREAD_ID
      WHERE t.PROCESSLIST_ID = victim AND x.STATE = 'ACTIVE' AND x.AUTOCOMMIT = 'NO';
    SELECT USER, HOST, COMMAND, TIME, TIME
      INTO found_user, found_host, found_command, found_time, idle
      FROM performance_schema.processlist WHERE ID = victim;
    SELECT e.EVENT_ID, e.END_EVENT_ID IS NULL,
           (CAST(own.TIMER_START AS SIGNED) - CAST(e.TIMER_END AS SIGNED)) / 1e12
      INTO found_statement, awake, idle
      FROM performance_schema.threads AS t
      STRAIGHT_JOIN performance_schema.events_statements_current AS e ON e.THREAD_ID = t.THREAD_ID
      LEFT JOIN performance_schema.events_statements_current AS own
        ON own.THREAD_ID = PS_CURRENT_THREAD_ID() AND own.NESTING_EVENT_LEVEL = 0
      WHERE t.PROCESSLIST_ID = victim AND e.NESTING_EVENT_LEVEL = 0;
  ELSE
    SELECT USER, HOST, COMMAND, TIME, TIME
      INTO found_user, found_host, found_command, found_time, idle
      FROM information_schema.processlist WHERE ID = victim;
  END IF;
"""
