"""Become another program that gives up root and dies with its parent.

usage: python -I -S launch.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT…]      (UID and GID "-": keep them)

A program of its own, standard library only, because Popen's preexec_fn is unsafe in a process with threads,
and because the kernel forgets the death signal when a process changes its user: drop first, then ask for it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    parent, signal_number, uid, gid, *command = argv
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel knew what to tell us
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    main(sys.argv[1:])
