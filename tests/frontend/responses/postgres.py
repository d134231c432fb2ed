"""A PostgreSQL cluster of the tests' own, in a temporary folder, reached over a Unix socket."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs; None if it is not installed."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """Runs a cluster; yields the URL of its database."""
    folder = Path(tempfile.mkdtemp(prefix="hr-pg-"))
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
        with (folder / "log").open("a") as log:
            subprocess.run(
                command, check=True, stdout=log, stderr=log, cwd=folder, timeout=60, **as_user
            )

    try:
        run("initdb", "-U", "headrace", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        run("pg_ctl", "start", "-w", "-o", options, "-l", str(folder / "data" / "server.log"))
        try:
            yield f"postgresql+psycopg://headrace@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
