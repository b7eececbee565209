"""PostgreSQL and Aurora PostgreSQL as the reaper sees them; the engine itself is in `server`."""
