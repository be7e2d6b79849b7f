"""One serving process without a supervisor: `python -m tests.alone`, with settings as bin/serve's.

For suites that measure, stop or kill a serving process by the pid of what they started.
"""

import os
import sys

from realtime.config.settings import Settings
from realtime.errors import say_and_exit
from realtime.runtime import process

if __name__ == "__main__":
    with say_and_exit():
        sys.exit(process.run(Settings.from_environ(os.environ), announce=lambda: None))
