"""Ties a new process to the one that started it, changes its user, and becomes the command. Run as a script, by path.

    python -I -S tether.py PARENT_PID USER_NUMBER|- COMMAND [ARGUMENT ...]

Between fork and exec of a process with threads only calls that take no lock are safe, and Python code is none of
those (`Popen`'s `preexec_fn` may hang). So this is a program of its own, which does the same after the exec. The order
matters: a change of the user clears the parent-death signal, and a parent that died before it was set would never be
noticed without the last look at who the parent is.
"""

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, user: str, *command: str) -> None:
    """Become the command, as this user; does not return."""
    if user != "-":
        entry = pwd.getpwuid(int(user))
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != int(parent):
        sys.exit("the parent process is gone, or this system does not tell of its end")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
