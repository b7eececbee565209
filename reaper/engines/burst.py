"""Many kills in one statement, which MariaDB itself stops once their time is over. Pure text."""

from __future__ import annotations

from collections.abc import Sequence

KILL, RDS_KILL = "KILL CONNECTION {}", "CALL mysql.rds_kill({})"
# ER_KILL_QUERY_DENIED_ERROR
NOT_OWNER = 1979


def kill(ids: Sequence[int], until: float, how: str = KILL) -> str:
    """The statement that kills these in their order, each only before `until` by the server's
    clock.

    It answers with a line for each: the code of the kill's error and its message, 0 where there was
    none. Those it had no time for have no line. A compound statement outside of a procedure
    (MariaDB 10.1.1 and later; MySQL has none).
    """
    return _KILL.format(
        count=len(ids), until=f"{until:.6f}", kill_one=how.format(_number_from(ids))
    )


def kill_unless_begun(
    ids: Sequence[int], last_statements: Sequence[int], seconds: float, how: str = KILL
) -> str:
    """The same for sessions of which each is looked up by its QUERY_ID right before its kill, for
    so many seconds.

    Every command takes another QUERY_ID, a ping and a reset as well [MariaDB, dispatch_command]:
    who answers to the one that was seen in his sleep still sleeps. KILL QUERY does nothing to a
    sleeper, and who may not KILL is told that it is not his, so that there is one. No two sessions
    may have the same: a ping takes the one that the next statement anywhere will have, too, and
    that statement would be ended.
    """
    kill_one = f"""KILL QUERY ID {_number_from(last_statements)};
    IF code IN (0, {NOT_OWNER}) THEN
      SET code = 0, why = '';
      {how.format(_number_from(ids))};
    END IF"""
    return _KILL.format(
        count=len(ids), until=f"UNIX_TIMESTAMP(SYSDATE(6)) + {seconds:.6f}", kill_one=kill_one
    )


def told(answer: str) -> list[tuple[int, str]]:
    """The codes and messages that such a statement answered with."""
    lines = (line.partition(" ") for line in answer.splitlines())
    return [(int(code), message) for code, _, message in lines]


def _number_from(numbers: Sequence[int]) -> str:
    """The number at `place`, from one literal of digits: arguments, as of ELT, would be resolved
    anew for each kill.
    """
    packed = "".join(f"{number:0{_DIGITS}d}" for number in numbers)
    return f"CAST(SUBSTR(_latin1'{packed}', (place - 1) * {_DIGITS} + 1, {_DIGITS}) AS UNSIGNED)"


# Of the largest id
_DIGITS = 20


_KILL = """
BEGIN NOT ATOMIC
  DECLARE place, code INT DEFAULT 0;
  DECLARE why, told LONGTEXT DEFAULT '';
  DECLARE until DOUBLE DEFAULT {until};
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION GET DIAGNOSTICS CONDITION 1 code = MYSQL_ERRNO, why = MESSAGE_TEXT;
  WHILE place < {count} AND UNIX_TIMESTAMP(SYSDATE(6)) < until DO
    SET place = place + 1, code = 0, why = '';
    {kill_one};
    SET told = CONCAT(told, code, ' ', REPLACE(why, CHAR(10), ' '), CHAR(10));
  END WHILE;
  SELECT told;
END
"""
