"""What comes from outside: malformed events, hostile names, and the secrets that nothing may
show.
"""
