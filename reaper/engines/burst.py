"""Many kills in one statement, which MariaDB itself stops once their time is over. Pure text."""

from __future__ import annotations

from collections.abc import Sequence


def kill(ids: Sequence[int], until: float) -> str:
    """The statement that kills these in their order, each only before `until` by the server's clock.

    It answers with the code of each kill's error, 0 where there was none; those it had no time for have no code. A
    compound statement outside of a procedure (MariaDB 10.1.1 and later; MySQL has none).
    """
    packed = "".join(f"{id_:0{_DIGITS}d}" for id_ in ids)
    return _KILL.format(count=len(ids), ids=packed, digits=_DIGITS, until=f"{until:.6f}")


_DIGITS = 20  # of the largest id


# One literal of digits: a list of as many arguments, as of ELT, would be resolved anew for each kill.
_KILL = """
BEGIN NOT ATOMIC
  DECLARE place, code INT DEFAULT 0;
  DECLARE told TEXT DEFAULT '';
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION GET DIAGNOSTICS CONDITION 1 code = MYSQL_ERRNO;
  WHILE place < {count} AND UNIX_TIMESTAMP(SYSDATE(6)) < {until} DO
    SET place = place + 1, code = 0;
    KILL CONNECTION CAST(SUBSTR(_latin1'{ids}', (place - 1) * {digits} + 1, {digits}) AS UNSIGNED);
    SET told = CONCAT(told, ' ', code);
  END WHILE;
  SELECT told;
END
"""
