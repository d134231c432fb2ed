"""A container whose root, temporary folder included, cannot be written."""

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.servers import Launch
from tests.small_file_systems import small_tmpfs

READ_ONLY = "mount --make-rprivate / && mount --bind / / && mount -o remount,ro,bind /"
# Not only the root: all that a host may have mounted below it stays as it is.
WRAPPER = ["unshare", "--mount", "sh", "-c", f'{READ_ONLY} && cd / && exec "$@"', "sh"]


def test_a_pool_needs_its_run_directory_only(launch: Launch, tmp_path: Path) -> None:
    check = [*WRAPPER, "sh", "-c", f"! touch {tmp_path}/written"]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip("the root cannot be made read-only here")
    launch().stop()  # prepares the model
    with small_tmpfs(tmp_path / "small", 32 << 20) as disk:
        server = launch("--frontends", "2", run_dir=disk / "run", wrapper=WRAPPER)
        body = {"prompt": "hello", "max_tokens": 5}
        assert server.client.post("/v1/completions", json=body).status_code == 200
        assert server.client.get("/metrics").status_code == 200
        server.children("headrace.workers.main")[0].kill()
        body["max_tokens"] = 6
        assert server.client.post("/v1/completions", json=body).status_code == 200
        assert server.stop() == 0
        assert "Traceback" not in server.log
