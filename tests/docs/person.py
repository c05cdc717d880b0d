"""Run a command for a person at a terminal who says yes: ``python person.py PROGRAM ARGUMENTS``.

Only its standard input is a terminal. The command takes this program's place, so signals and exit codes are its own.
"""

import os
import pty
import sys

asker, answerer = pty.openpty()
os.write(asker, b"y\n")
os.set_inheritable(asker, True)  # While it is open the terminal has somebody at it.
os.dup2(answerer, 0)
os.execv(sys.argv[1], sys.argv[1:])
