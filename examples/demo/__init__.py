"""The demo: frozen functions fill a database, the reaper makes room again. Run it with `make demo`."""
