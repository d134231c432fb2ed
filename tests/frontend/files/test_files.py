"""/v1/files: uploads, lists, contents, limits."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quart import Quart
from quart.typing import TestClientProtocol as Client
from sqlalchemy import create_engine, text

from headrace.frontend.files import folder as folders
from headrace.frontend.files import upload as upload_module
from headrace.frontend.files.file_store import FileLimits, FileStore
from headrace.frontend.files.folder import FileFolder
from headrace.frontend.store.database import Database
from tests.frontend.asgi import Exchange
from tests.frontend.batches.batch_asking import upload

HEAD = {"content-type": "multipart/form-data; boundary=B"}
PURPOSE = b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'


def part(content: bytes, name: str = "file", filename: str = "a.jsonl") -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


async def post(client: Client, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    response = await client.post("/v1/files", data=body, headers={**HEAD, **headers})
    return response.status_code, await response.get_json()


def left(tmp_path: Path, kind: str) -> list[str]:
    """The files that lie there."""
    return [path.name for path in (tmp_path / "files" / kind).iterdir()]


async def test_a_file_comes_back_as_it_was(client: Client) -> None:
    content = bytes(range(256)) * 300
    response = await upload(client, content, purpose="user_data")
    stored = await response.get_json()
    assert stored["object"] == "file"
    assert stored["bytes"] == len(content)
    assert stored["filename"] == "input.jsonl"
    assert stored["purpose"] == "user_data"
    assert stored["status"] == "processed"
    assert abs(stored["created_at"] - time.time()) < 60
    assert stored["expires_at"] is None
    response = await client.get(f"/v1/files/{stored['id']}")
    assert await response.get_json() == stored
    response = await client.get(f"/v1/files/{stored['id']}/content")
    assert await response.get_data(as_text=False) == content
    assert response.headers["Content-Length"] == str(len(content))


async def test_a_file_expires(client: Client, tmp_path: Path) -> None:
    form = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    stored = await (await upload(client, b"x", **form)).get_json()
    assert stored["expires_at"] - stored["created_at"] == 3600
    engine = create_engine(f"sqlite:///{tmp_path / 'responses.db'}")
    with engine.begin() as connection:
        connection.execute(text("update headrace_files set expires_at = created_at"))
    engine.dispose()
    assert (await client.get(f"/v1/files/{stored['id']}")).status_code == 404
    assert (await (await client.get("/v1/files")).get_json())["data"] == []


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "nope"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 5000},
            "expires_after.seconds",
        ),
    ],
)
async def test_bad_fields(client: Client, tmp_path: Path, form: dict[str, str], param: str) -> None:
    response = await upload(client, b"x", **form)
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == param
    assert left(tmp_path, "files") == left(tmp_path, "uploads") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B--\r\n",
        PURPOSE + b"--B--\r\n",
        PURPOSE + part(b"x", name="other") + b"--B--\r\n",
        b"no multipart at all",
        PURPOSE + part(b"x")[:-10],
    ],
)
async def test_bodies_without_a_file(client: Client, tmp_path: Path, body: bytes) -> None:
    status, answer = await post(client, body)
    assert status == 400
    assert answer["error"]["param"] == "body.file"
    assert left(tmp_path, "uploads") == []


async def test_two_files_are_one_too_many(client: Client, tmp_path: Path) -> None:
    status, answer = await post(client, PURPOSE + part(b"x") + part(b"y") + b"--B--\r\n")
    assert (status, answer["error"]["param"]) == (400, "file")
    assert left(tmp_path, "files") == left(tmp_path, "uploads") == []


async def test_no_purpose(client: Client) -> None:
    status, answer = await post(client, part(b"x") + b"--B--\r\n")
    assert (status, answer["error"]["param"]) == (400, "body.purpose")


async def test_other_kinds_of_bodies(client: Client) -> None:
    assert (await client.post("/v1/files", json={"purpose": "batch"})).status_code == 415
    status, _ = await post(client, PURPOSE, **{"content-type": "multipart/form-data"})
    assert status == 400


async def test_many_fields_and_long_ones_are_refused(client: Client) -> None:
    status, _ = await post(client, PURPOSE * 100 + part(b"x") + b"--B--\r\n")
    assert status == 413
    field = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 50_000 + b"\r\n"
    status, _ = await post(client, field + part(b"x") + b"--B--\r\n")
    assert status == 413


async def test_names_of_clients_are_no_paths(client: Client, tmp_path: Path) -> None:
    _, stored = await post(client, PURPOSE + part(b"x", filename="../../up/" + "n" * 900))
    _, stored = await post(client, PURPOSE + part(b"x", filename="../../up") + b"--B--\r\n")
    assert stored["filename"].endswith("up")
    assert left(tmp_path, "files") == [stored["id"]]
    for path in ("..%2fvolume", "%2e%2e", "file-" + "A" * 32, "volume", "file-" + "0" * 33):
        for suffix in ("", "/content"):
            assert (await client.get(f"/v1/files/{path}{suffix}")).status_code == 404
        assert (await client.delete(f"/v1/files/{path}")).status_code == 404


async def test_a_large_file_is_refused(client: Client, tmp_path: Path) -> None:
    response = await upload(client, b"x" * 100_001)
    assert response.status_code == 413
    assert left(tmp_path, "files") == left(tmp_path, "uploads") == []
    assert (await upload(client, b"x" * 100_000)).status_code == 200


async def test_an_upload_without_a_length_is_refused_when_it_is_too_large(
    make_app: Callable[..., Quart], tmp_path: Path
) -> None:
    app = make_app(file_max_bytes=100_000)
    async with app.test_app():
        exchange = Exchange(app, "/v1/files", PURPOSE + part(b"")[:-2], HEAD, has_more=True)
        piece = {"type": "http.request", "body": b"x" * 30_000, "more_body": True}
        for _ in range(5):
            exchange._incoming.put_nowait(piece)
            await asyncio.sleep(0.05)
        for _ in range(100):
            if exchange.status is not None:
                break
            exchange._incoming.put_nowait(piece)
            await asyncio.sleep(0.05)
        assert exchange.status == 413
        await exchange.disconnect()
        assert left(tmp_path, "uploads") == []


async def test_a_client_that_leaves_leaves_nothing(
    make_app: Callable[..., Quart], tmp_path: Path
) -> None:
    app = make_app()
    async with app.test_app():
        exchange = Exchange(app, "/v1/files", PURPOSE + part(b"x" * 5000), HEAD, has_more=True)
        while not (tmp_path / "files" / "uploads").exists() or not left(tmp_path, "uploads"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await exchange.disconnect()
        assert left(tmp_path, "files") == left(tmp_path, "uploads") == []


async def test_a_full_store_takes_no_more(make_app: Callable[..., Quart]) -> None:
    limits = {"file_max_bytes": 10_000, "file_store_max_bytes": 20_000, "file_store_max_count": 3}
    async with make_app(**limits).test_app() as app:
        client = app.test_client()
        assert (await upload(client, b"x" * 9_000)).status_code == 200
        assert (await upload(client, b"x" * 9_000)).status_code == 200
        response = await upload(client, b"x" * 9_000)
        assert response.status_code == 409
        assert "20000" in (await response.get_json())["error"]["message"]
        last = await (await upload(client, b"x")).get_json()
        assert (await upload(client, b"x")).status_code == 409
        await client.delete(f"/v1/files/{last['id']}")
        assert (await upload(client, b"x")).status_code == 200


async def test_files_are_listed_by_pages(client: Client) -> None:
    ids = []
    for n in range(5):
        purpose = "batch" if n % 2 else "user_data"
        ids.append((await (await upload(client, b"x", purpose=purpose)).get_json())["id"])
    first = await (await client.get("/v1/files?limit=2")).get_json()
    assert [each["id"] for each in first["data"]] == [ids[4], ids[3]]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (ids[4], ids[3])
    rest = await (await client.get(f"/v1/files?after={ids[3]}")).get_json()
    assert [each["id"] for each in rest["data"]] == [ids[2], ids[1], ids[0]]
    assert rest["has_more"] is False
    some = await (await client.get("/v1/files?order=asc&purpose=batch")).get_json()
    assert [each["id"] for each in some["data"]] == [ids[1], ids[3]]
    for query in ("limit=0", "limit=10001", "limit=x", "order=up", "after=nope"):
        response = await client.get(f"/v1/files?{query}")
        assert response.status_code == 400
        is_malformed = query in ("limit=x", "order=up")
        name = query.partition("=")[0]
        expected = f"query.{name}" if is_malformed else name
        assert (await response.get_json())["error"]["param"] == expected


async def test_a_deleted_file_is_gone(client: Client, tmp_path: Path) -> None:
    stored = await (await upload(client, b"x")).get_json()
    response = await client.delete(f"/v1/files/{stored['id']}")
    assert await response.get_json() == {"id": stored["id"], "object": "file", "deleted": True}
    assert left(tmp_path, "files") == []
    assert (await client.get(f"/v1/files/{stored['id']}")).status_code == 404
    assert (await client.get(f"/v1/files/{stored['id']}/content")).status_code == 404
    assert (await client.delete(f"/v1/files/{stored['id']}")).status_code == 404


# The store


def new_store(tmp_path: Path, name: str = "files", max_age_s: float = 1e6) -> FileStore:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    limits = FileLimits(1000, 10_000, 10, max_age_s)
    return FileStore(database, FileFolder(tmp_path / name), limits)


async def add(store: FileStore) -> str:
    path = store.folder.new_upload("")
    path.write_bytes(b"x")
    stored = await store.add(path, tenant="", purpose="batch", filename="x", expires_after_s=None)
    return stored.file_id


async def test_pruning_removes_what_is_old_or_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    kept = await add(store)
    orphan = store.folder.path("file-" + "0" * 32)
    orphan.write_bytes(b"x")
    started = store.folder.new_upload("")
    started.write_bytes(b"x")
    await store.prune()
    assert orphan.exists()  # its row may be about to be written
    assert started.exists()
    monkeypatch.setattr(folders, "ABANDONED_S", -1.0)
    await store.prune()
    assert not orphan.exists()
    assert not started.exists()
    assert (await store.get("", kept)).size == 1
    await new_store(tmp_path, max_age_s=-1).prune()
    assert not store.folder.path(kept).exists()


async def test_pools_with_other_folders_do_not_see_files(tmp_path: Path) -> None:
    mine, other = new_store(tmp_path), new_store(tmp_path, "others")
    file_id = await add(mine)
    page = await other.page("", limit=10, after=None, ascending=False, purpose=None)
    assert page.files == []
    assert (await new_store(tmp_path).get("", file_id)).file_id == file_id


def test_a_folder_keeps_its_id(tmp_path: Path) -> None:
    volumes = {FileFolder(tmp_path / "files").volume for _ in range(3)}
    assert len(volumes) == 1
    assert volumes != {FileFolder(tmp_path / "others").volume}
    assert (tmp_path / "files").stat().st_mode & 0o077 == 0


async def test_an_upload_is_received_no_faster_than_it_is_read() -> None:
    """What a client sends meanwhile stays with the connection, not in this process."""
    body = upload_module.UploadBody(None, None)
    body.append(b"x" * upload_module.MAX_BUFFERED_BYTES)
    waiting = asyncio.ensure_future(body.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert len(await anext(body)) == upload_module.MAX_BUFFERED_BYTES
    await asyncio.wait_for(waiting, 1)
    body.append(b"x" * upload_module.MAX_BUFFERED_BYTES)
    body.discard()
    await asyncio.wait_for(body.wait_for_room(), 1)
    body.append(b"x" * 100)
    assert len(body._data) == 0


async def test_a_large_upload_waits_for_its_reader(
    make_app: Callable[..., Quart], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upload_module, "MAX_BUFFERED_BYTES", 50_000)
    check_room, may_read = FileStore.check_room, asyncio.Event()

    async def wait(self: FileStore, tenant: str, size: int) -> None:
        await may_read.wait()
        await check_room(self, tenant, size)

    monkeypatch.setattr(FileStore, "check_room", wait)
    app = make_app()
    async with app.test_app():
        exchange = Exchange(app, "/v1/files", PURPOSE + part(b"")[:-2], HEAD, has_more=True)
        for _ in range(20):
            piece = {"type": "http.request", "body": b"x" * 30_000, "more_body": True}
            exchange._incoming.put_nowait(piece)
        last = {"type": "http.request", "body": b"\r\n--B--\r\n", "more_body": False}
        exchange._incoming.put_nowait(last)
        await asyncio.sleep(0.3)
        assert exchange._incoming.qsize() > 15
        may_read.set()
        while exchange.status is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert exchange.status == 200
        await exchange.disconnect()
    (stored,) = (tmp_path / "files" / "files").iterdir()
    assert stored.stat().st_size == 600_000
