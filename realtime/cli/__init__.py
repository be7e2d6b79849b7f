"""The commands behind `bin/`, one module each."""
