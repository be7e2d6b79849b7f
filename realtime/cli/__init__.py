"""The commands of `realtime`: their options and their help, one module each.

A module has the click command as `command`, and imports what does the work only when that is
called. `commands.py` lists them all.
"""
