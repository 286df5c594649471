"""What root's servers may reach, and what is copied to where they can."""

import os
import stat
from pathlib import Path

import pytest

from service.dev import accounts
from service.dev.accounts import Account, data_directory, reachable_copy, service_account
from service.dev.homes import OwnedDirectory

STRANGER = Account(uid=54321, gid=54321)


def test_an_ordinary_user_runs_servers_as_itself_and_root_as_another() -> None:
    account = service_account()
    assert (account is None) == (os.geteuid() != 0)
    if account is not None:
        assert account.uid != 0
        assert account.gid != 0


def test_reach_needs_every_directory_on_the_way(server_home: Path) -> None:
    inner = server_home / "closed" / "inner"
    inner.mkdir(parents=True)
    file = inner / "file"
    file.touch()
    file.chmod(0o644)
    assert STRANGER.reaches(file)
    (server_home / "closed").chmod(0o700)
    assert not STRANGER.reaches(file)
    assert Account(os.geteuid(), os.getegid()).reaches(file)


def test_data_goes_where_the_account_can_get(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SHARED", server_home / "shared")
    home = server_home / "private" / ".rapport"
    home.mkdir(parents=True)
    assert data_directory(home, STRANGER) == home
    home.chmod(0o700)
    assert data_directory(home, STRANGER).parent == server_home / "shared"
    home.chmod(0o711)
    (server_home / "private").chmod(0o700)
    elsewhere = data_directory(home, STRANGER)
    assert elsewhere.parent == server_home / "shared"
    assert data_directory(home, STRANGER) == elsewhere
    assert data_directory(home, None) == home
    assert data_directory(server_home / "private" / "other", STRANGER) != elsewhere


def test_a_directory_that_was_there_keeps_its_mode(server_home: Path) -> None:
    """RAPPORT_HOME may name anybody's home directory; a server's own directory is closed."""
    theirs, new = server_home / "theirs", server_home / "new"
    theirs.mkdir(mode=0o750)
    OwnedDirectory(theirs, STRANGER, passage=True)
    OwnedDirectory(new, STRANGER, passage=True)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (theirs, new)] == [0o750, 0o711]
    OwnedDirectory(theirs)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o700


def test_unreachable_programs_are_copied_in_their_layout(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SHARED", server_home / "shared")
    packages = server_home / "packages"
    (packages / "server" / "bin").mkdir(parents=True)
    (packages / "server.libs").mkdir()
    program, library = packages / "server" / "bin" / "run", packages / "server.libs" / "lib.so.1"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    library.write_text("library")
    (packages / "server.libs" / "lib.so").symlink_to("lib.so.1")
    (server_home / "packages").chmod(0o700)
    parts = (packages / "server", packages / "server.libs")

    assert reachable_copy(parts, packages, "server-1", None) == packages
    copy = reachable_copy(parts, packages, "server-1", STRANGER)
    assert copy == server_home / "shared" / "bin" / "server-1"
    assert STRANGER.reaches(copy / "server" / "bin" / "run")
    assert stat.S_IMODE((copy / "server" / "bin" / "run").stat().st_mode) == 0o755
    assert (copy / "server.libs" / "lib.so").read_text() == "library"
    assert stat.S_IMODE((server_home / "packages").stat().st_mode) == 0o700  # never opened up
    library.write_text("changed")
    assert reachable_copy(parts, packages, "server-1", STRANGER) == copy
    assert (copy / "server.libs" / "lib.so").read_text() == "library"  # made once for a version
