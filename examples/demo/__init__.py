"""The demo: frozen functions fill a database, and the reaper makes room. Run it with
`make demo`.
"""
