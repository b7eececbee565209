"""Requests: what an event asks for, and what is done about it."""
