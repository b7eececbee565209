"""Many kills in one statement, which MariaDB itself stops once their time is over. Pure text."""

from __future__ import annotations

from collections.abc import Sequence

from reaper.engines.mysql.errors import NOT_OWNER

KILL, RDS_KILL = "KILL CONNECTION {}", "CALL mysql.rds_kill({})"


def kill(ids: Sequence[int], until: float, command: str = KILL) -> str:
    """The statement that kills these sessions in their order, each only before `until`, in seconds
    by the server's clock.

    `errors` reads its answer. It is a compound statement outside of a procedure, which MariaDB has
    since 10.1.1 and MySQL has not.
    """
    return _KILL.format(
        count=len(ids), until=f"{until:.6f}", kill_one=command.format(_number_from(ids))
    )


def kill_unless_begun(
    ids: Sequence[int], query_ids: Sequence[int], seconds: float, command: str = KILL
) -> str:
    """The same for sessions of which each is looked up by its QUERY_ID right before its kill, for
    so many seconds.

    Every command takes another QUERY_ID, a ping and a reset as well [MariaDB, dispatch_command], so
    a session that still has the one it slept with is still asleep. KILL QUERY does nothing to an
    idle session; error 1979 (not owner) also proves that it exists. No two sessions may have the
    same QUERY_ID: a ping takes the one that the next statement anywhere will have, too, and that
    statement would be ended.
    """
    kill_one = f"""KILL QUERY ID {_number_from(query_ids)};
    IF code IN (0, {NOT_OWNER}) THEN
      SET code = 0, why = '';
      {command.format(_number_from(ids))};
    END IF"""
    return _KILL.format(
        count=len(ids), until=f"UNIX_TIMESTAMP(SYSDATE(6)) + {seconds:.6f}", kill_one=kill_one
    )


def errors(answer: str) -> list[tuple[int, str]]:
    """The code and message of each kill's error, in the order of the kills; 0 where there was none.

    Kills that the statement had no time for are missing at the end.
    """
    lines = (line.partition(" ") for line in answer.splitlines())
    return [(int(code), message) for code, _, message in lines]


def _number_from(numbers: Sequence[int]) -> str:
    """The number at `place`, as SQL.

    All numbers stand in one text literal, each in as many digits: a list of arguments, as of ELT,
    would be resolved anew for each kill, which makes n kills cost n².
    """
    digits = "".join(f"{number:0{_DIGITS}d}" for number in numbers)
    return f"CAST(SUBSTR(_latin1'{digits}', (place - 1) * {_DIGITS} + 1, {_DIGITS}) AS UNSIGNED)"


# Of the largest id
_DIGITS = 20


_KILL = """
BEGIN NOT ATOMIC
  DECLARE place, code INT DEFAULT 0;
  DECLARE why, told LONGTEXT DEFAULT '';
  DECLARE until DOUBLE DEFAULT {until};
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION
    GET DIAGNOSTICS CONDITION 1 code = MYSQL_ERRNO, why = MESSAGE_TEXT;
  WHILE place < {count} AND UNIX_TIMESTAMP(SYSDATE(6)) < until DO
    SET place = place + 1, code = 0, why = '';
    {kill_one};
    SET told = CONCAT(told, code, ' ', REPLACE(why, CHAR(10), ' '), CHAR(10));
  END WHILE;
  SELECT told;
END
"""
