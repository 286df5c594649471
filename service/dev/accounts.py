"""Which operating-system account the embedded servers run as, and whether it can reach what they need.

PostgreSQL refuses to run as root, and nothing else should. Root's directories are never opened up for it: what the
account can't reach is copied to where it can.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "rapport"
SHARED = Path("/var/lib/rapport")


@dataclass(frozen=True, slots=True)
class Account:
    """A user to become; user, group and supplementary groups all change."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Whether every directory above `path` lets the account through, and `path` itself lets it read."""
        resolved = path.resolve()
        needed = stat.S_IXOTH if resolved.is_dir() else stat.S_IROTH
        return self._allowed(resolved, needed) and all(self._allowed(p, stat.S_IXOTH) for p in resolved.parents)

    def _allowed(self, path: Path, other_bit: int) -> bool:
        if not path.exists():
            return True  # it will be made, by us
        about = path.stat()
        if about.st_uid == self.uid:
            return bool(about.st_mode & (other_bit << 6))
        if about.st_gid == self.gid:
            return bool(about.st_mode & (other_bit << 3))
        return bool(about.st_mode & other_bit)


def service_account() -> Account | None:
    """None for an ordinary user: servers run as that user. For root: `rapport`, made when it is missing."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(NAME)
    except KeyError:
        found = _make_account()
    return Account(found.pw_uid, found.pw_gid)


def _make_account() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is not None:
        command = [
            useradd,
            "--system",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            NAME,
        ]
        # two processes may come here at once: what counts is that the account is there afterwards
        subprocess.run(command, check=False, capture_output=True)
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        return pwd.getpwnam("nobody")


def data_directory(home: Path, account: Account | None) -> Path:
    """Where a server may keep data for `home`: in it, or below /var/lib/rapport when `account` can't get there."""
    absolute = home.absolute()
    if account is None or account.reaches(absolute if absolute.exists() else absolute.parent):
        return absolute
    return SHARED / hashlib.sha256(str(absolute).encode()).hexdigest()[:16]


def reachable_copy(files: tuple[Path, ...], root: Path, name: str, account: Account | None) -> Path:
    """The directory that holds `files` in their layout below `root`: `root` itself when `account` can run them there.

    `name` should carry the version, for the copy is made once and kept.
    """
    if account is None or all(account.reaches(path) for path in files):
        return root
    target = SHARED / "bin" / name
    if not target.exists():
        SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.parent.mkdir(mode=0o755, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in files:
            _copy_readable(path, unfinished / path.relative_to(root))
        for made in (unfinished, *unfinished.rglob("*")):
            if made.is_dir():
                made.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return target


def _copy_readable(source: Path, target: Path) -> None:
    if source.is_dir():
        for child in source.iterdir():
            _copy_readable(child, target / child.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) or source.stat().st_mode & 0o100 else 0o644)
