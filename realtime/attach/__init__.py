"""`bin/attach`: puts the triggers onto a platform's own tables. Start with `command.py`."""
