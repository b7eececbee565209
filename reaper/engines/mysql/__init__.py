"""MySQL, MariaDB and Aurora MySQL as the reaper sees them; the engine itself is in `server`."""
