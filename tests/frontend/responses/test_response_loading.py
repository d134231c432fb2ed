"""What the Responses API needs is loaded when it is needed, and not by every frontend's start."""

import subprocess
import sys
from pathlib import Path

from tests.frontend.conftest import Serve
from tests.frontend.responses.response_asking import ask

HEAVY = {"openai", "sqlalchemy", "mcp", "psycopg"}


def test_a_frontend_starts_without_it() -> None:
    program = f"import sys, headrace.frontend.process.serve; print({HEAVY!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


async def test_the_store_is_made_with_the_first_response(serve: Serve, tmp_path: Path) -> None:
    async with serve() as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert not (tmp_path / "responses.db").exists()
        await ask(client)
        assert (tmp_path / "responses.db").exists()
