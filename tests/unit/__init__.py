"""Pure tests: no network, no sleep, no wall clock."""
