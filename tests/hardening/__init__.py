"""The claims that a reviewer tests first: nothing lost, nobody wrongly ended."""
