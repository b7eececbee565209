"""One sweep of one target: look, judge, terminate, verify."""

from reaper.sweep.history import SECOND_LOOK, IdleHistory
from reaper.sweep.run import Observers, Sweep

__all__ = ["SECOND_LOOK", "IdleHistory", "Observers", "Sweep"]
