"""LoRA adapters as a frontend shows and uses them."""

import asyncio
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.adapters import AdapterUse, AdapterWatch
from headrace.frontend.pool.interface import PoolUnavailable
from headrace.frontend.routes import adapters
from headrace.protocol.calls import (
    CONFLICT,
    INVALID,
    MISSING,
    TIMEOUT,
    UNFIT,
    AwaitAdapterShown,
    AwaitAdapterUnused,
    CallTarget,
    ErrorKind,
    LoadAdapter,
    UnloadAdapter,
)
from headrace.protocol.common.adapter_source import locate_adapter
from headrace.protocol.config import EngineConfig
from headrace.protocol.state import READY, STARTING, AdapterState, PoolState
from headrace.protocol.to_frontend import Output
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool, pool_state
from tests.frontend.pool.dispatching import Wire, begin

SQL = AdapterState("sql", "1f", "org/sql")
LEAVING = AdapterState("css", "2f", "css", is_draining=True)
ASK = {"model": "sql", "prompt": "hi", "max_tokens": 2}


@pytest.fixture
def use() -> AdapterUse:
    return AdapterUse()


@pytest.fixture
def admin(make_app: MAKE_APP, use: AdapterUse, pool: FakePool) -> Client:
    pool.state = pool_state(adapters=(SQL, LEAVING))
    engine = EngineConfig(enable_lora=True)
    return make_app(enable_admin=True, use=use, engine=engine).test_client()


def write_adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    return folder


async def load(client: Client, status: int, **fields: Any) -> Any:
    answer = await client.post("/v1/load_lora_adapter", json={"lora_name": "new", **fields})
    text = await answer.get_data(as_text=True)
    assert answer.status_code == status, text
    return text if status == 200 else (await answer.get_json())["error"]


class TestModels:
    async def test_adapters_are_models_with_a_parent(self, admin: Client) -> None:
        cards = (await (await admin.get("/v1/models")).get_json())["data"]
        shown = [(each["id"], each["root"], each["parent"]) for each in cards]
        assert shown[-1] == ("sql", "org/sql", "smol")
        assert [parent for *_, parent in shown[:-1]] == [None, None]
        card = await (await admin.get("/v1/models/sql")).get_json()
        assert card == cards[-1]
        assert (await admin.get("/v1/models/css")).status_code == 404

    async def test_requests_use_them(self, admin: Client, pool: FakePool, use: AdapterUse) -> None:
        answer = await (await admin.post("/v1/completions", json=ASK)).get_json()
        assert answer["model"] == "sql"
        assert pool.requests[0].adapter == "1f"
        base = await (await admin.post("/v1/completions", json=ASK | {"model": "smol"})).get_json()
        assert pool.requests[1].adapter == ""
        assert base["system_fingerprint"] != answer["system_fingerprint"]
        assert not use.is_used("1f")

    async def test_one_that_leaves_takes_no_requests(self, admin: Client) -> None:
        answer = await admin.post("/v1/completions", json=ASK | {"model": "css"})
        assert answer.status_code == 404

    async def test_an_adapter_is_used_until_the_answer_has_ended(
        self, admin: Client, pool: FakePool, use: AdapterUse
    ) -> None:
        pool.hold_after = 1
        asked = asyncio.create_task(admin.post("/v1/completions", json=ASK))
        await pool.wait_for_streams(1)
        assert use.is_used("1f")
        pool.release.set()
        await asked
        assert not use.is_used("1f")

    async def test_a_response_keeps_its_adapter_through_all_its_turns(
        self, admin: Client, pool: FakePool, use: AdapterUse
    ) -> None:
        pool.hold_after = 1
        body = {"model": "sql", "input": "hi", "background": True, "max_output_tokens": 3}
        begun = await (await admin.post("/v1/responses", json=body)).get_json()
        pool.state = pool_state()  # the name is nobody's now
        assert use.is_used("1f")
        pool.release.set()
        watch = AdapterWatch(lambda: pool.state, use)
        assert (await watch.await_unused(AwaitAdapterUnused("1f", 20))).is_met
        ended = await (await admin.get(f"/v1/responses/{begun['id']}")).get_json()
        assert ended["status"] in ("incomplete", "completed"), ended


class TestLoading:
    async def test_its_files_are_copied_and_the_pool_told(
        self, admin: Client, pool: FakePool, tmp_path: Path
    ) -> None:
        folder = write_adapter(tmp_path / "new")
        text = await load(admin, 200, lora_path=str(folder))
        assert text == "Success: LoRA adapter 'new' added successfully."
        ((call, target),) = pool.calls
        assert isinstance(call, LoadAdapter)
        adapter_id = call.adapter_id
        assert target == CallTarget("main")
        assert call == LoadAdapter("new", adapter_id, "new", in_place=False)
        kept = tmp_path / "adapters" / adapter_id
        assert (kept / "adapter_model.safetensors").read_bytes() == b"x"
        await load(admin, 200, lora_path=str(folder), load_inplace=True)
        again = pool.calls[1][0]
        assert isinstance(again, LoadAdapter)
        assert again.in_place
        assert again.adapter_id != adapter_id

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/tmp/../etc", 400),
            ("../etc", 400),
            ("org/../../etc", 400),
            ("relative", 400),
            ("~/adapter", 400),
            ("file:///etc", 400),
            ("/nowhere/at/all", 404),
            ("/etc", 404),
            ("/dev/stdin", 404),
            ("org/nothing", 404),
            ("", 400),
            ("a" * 5000, 400),
        ],
    )
    async def test_places_where_none_is(
        self, admin: Client, pool: FakePool, path: str, status: int
    ) -> None:
        error = await load(admin, status, lora_path=path)
        assert error["param"] == "lora_path"
        assert "/nowhere" not in error["message"]
        assert not pool.calls

    async def test_files_that_are_not_read(self, admin: Client, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "new")
        weights = folder / "adapter_model.safetensors"
        weights.rename(folder / "adapter_model.bin")
        assert "pickled" in (await load(admin, 400, lora_path=str(folder)))["message"]
        weights.mkdir()
        assert "no file" in (await load(admin, 400, lora_path=str(folder)))["message"]

    async def test_no_room_for_a_copy(
        self, admin: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_adapter(tmp_path / "new")
        usage = shutil.disk_usage(tmp_path)._replace(free=2)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        assert "no room" in (await load(admin, 400, lora_path=str(folder)))["message"]
        assert not (tmp_path / "adapters").exists()

    async def test_only_what_lies_in_the_folder_for_them(
        self, make_app: MAKE_APP, pool: FakePool, tmp_path: Path
    ) -> None:
        root = tmp_path / "root"
        root.mkdir()
        write_adapter(root / "mine")
        outside = write_adapter(tmp_path / "outside")
        (root / "link").symlink_to(outside)
        linked = write_adapter(root / "linked")
        (linked / "adapter_model.safetensors").unlink()
        (linked / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
        engine = EngineConfig(enable_lora=True)
        client = make_app(enable_admin=True, engine=engine, lora_dir=root).test_client()
        for path in ("mine", str(root / "mine")):
            await load(client, 200, lora_path=path)
        for path in (str(outside), "/nowhere", "link", "linked", "/etc"):
            error = await load(client, 400, lora_path=path)
            assert "must lie in the folder" in error["message"], path
        assert (await load(client, 404, lora_path="nothing"))["param"] == "lora_path"

    async def test_links_that_are_changed_meanwhile_lead_nowhere(
        self, make_app: MAKE_APP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file that is open must lie in the folder, not the one that was checked before."""
        root = tmp_path / "root"
        root.mkdir()
        mine = write_adapter(root / "mine")
        outside = write_adapter(tmp_path / "outside")
        real = locate_adapter

        def located(path: str, lora_dir: Path | None) -> tuple[Path, str | None]:
            found = real(path, lora_dir)
            mine.rename(root / "moved")
            mine.symlink_to(outside)
            return found

        monkeypatch.setattr(adapters, "locate_adapter", located)
        engine = EngineConfig(enable_lora=True)
        client = make_app(enable_admin=True, engine=engine, lora_dir=root).test_client()
        error = await load(client, 400, lora_path="mine")
        assert "must lie in the folder" in error["message"]

    async def test_a_pipe_is_not_waited_for(self, admin: Client, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "piped")
        (folder / "adapter_model.safetensors").unlink()
        os.mkfifo(folder / "adapter_model.safetensors")
        error = await load(admin, 400, lora_path=str(folder))
        assert "is no file" in error["message"]

    @pytest.mark.parametrize("where", ["/nowhere", "org/name", "here"])
    async def test_a_server_without_the_flag_says_so(
        self, make_app: MAKE_APP, tmp_path: Path, where: str
    ) -> None:
        folder = write_adapter(tmp_path / "here")
        client = make_app(enable_admin=True).test_client()
        path = str(folder) if where == "here" else where
        error = await load(client, 400, lora_path=path)
        assert "--enable-lora" in error["message"]

    async def test_unloading_without_the_flag_says_so_too(self, make_app: MAKE_APP) -> None:
        client = make_app(enable_admin=True).test_client()
        response = await client.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
        assert response.status_code == 400
        assert "--enable-lora" in (await response.get_json())["error"]["message"]

    @pytest.mark.parametrize(
        ("kind", "status", "param"),
        [
            (INVALID, 400, "lora_name"),
            (UNFIT, 400, "lora_path"),
            (CONFLICT, 409, "lora_name"),
            (TIMEOUT, 408, "lora_name"),
        ],
    )
    async def test_what_the_pool_refuses(
        self,
        admin: Client,
        pool: FakePool,
        tmp_path: Path,
        kind: ErrorKind,
        status: int,
        param: str,
    ) -> None:
        folder = write_adapter(tmp_path / "new")
        pool.errors[LoadAdapter] = ("has already been loaded", kind)
        error = await load(admin, status, lora_path=str(folder))
        assert error["message"] == "The lora adapter 'new' has already been loaded."
        assert error["param"] == param

    async def test_bad_fields(self, admin: Client) -> None:
        for fields, param in (
            ({"lora_name": ""}, "lora_name"),
            ({"lora_name": "a\nb"}, "lora_name"),
            ({"lora_name": "x" * 300}, "lora_name"),
            ({"lora_name": 5}, "body.lora_name"),
            ({"load_inplace": "yes"}, "body.load_inplace"),
        ):
            error = await load(admin, 400, **{"lora_path": "/x", **fields})
            assert error["param"] == param, error

    async def test_only_for_operators(self, client: Client) -> None:
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert (await client.post(path, json={})).status_code == 404


class TestUnloading:
    async def test_the_pool_is_told(self, admin: Client, pool: FakePool) -> None:
        answer = await admin.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
        text = await answer.get_data(as_text=True)
        assert text == "Success: LoRA adapter 'sql' removed successfully."
        assert pool.calls == [(UnloadAdapter("sql"), CallTarget())]

    async def test_what_came_of_it_at_each_worker(self, admin: Client) -> None:
        answer = await admin.post("/v1/unload_lora_adapter?verbose", json={"lora_name": "sql"})
        body = await answer.get_json()
        assert body["message"] == "Success: LoRA adapter 'sql' removed successfully."
        assert [each["name"] for each in body["workers"]] == ["main-0.0"]

    async def test_one_that_there_is_not(self, admin: Client, pool: FakePool) -> None:
        pool.errors[UnloadAdapter] = ("cannot be found", MISSING)
        answer = await admin.post("/v1/unload_lora_adapter", json={"lora_name": "x"})
        error = (await answer.get_json())["error"]
        assert (answer.status_code, error["type"]) == (404, "NotFoundError")
        assert error["message"] == "The lora adapter 'x' cannot be found."


class TestWatch:
    async def test_an_adapter_is_shown_as_soon_as_the_state_says_so(self) -> None:
        states: list[PoolState | None] = [None]
        watch = AdapterWatch(lambda: states[-1], AdapterUse())
        shown = asyncio.create_task(watch.await_shown(AwaitAdapterShown("1f", 20)))
        await asyncio.sleep(0.05)
        assert not shown.done()
        states.append(pool_state(adapters=(SQL,)))
        assert (await shown).is_met

    async def test_one_that_leaves_is_not(self) -> None:
        watch = AdapterWatch(lambda: pool_state(adapters=(LEAVING,)), AdapterUse())
        assert not (await watch.await_shown(AwaitAdapterShown("2f", 0.01))).is_met

    async def test_an_adapter_is_unused_when_nobody_finds_it_nor_uses_it(self) -> None:
        use = AdapterUse()
        state = [pool_state(adapters=(SQL,))]
        watch = AdapterWatch(lambda: state[-1], use)
        assert not (await watch.await_unused(AwaitAdapterUnused("1f", 0.01))).is_met
        first, second = use.hold("1f"), use.hold("1f")
        state.append(pool_state())
        first()
        assert not (await watch.await_unused(AwaitAdapterUnused("1f", 0.01))).is_met
        unused = asyncio.create_task(watch.await_unused(AwaitAdapterUnused("1f", 20)))
        await asyncio.sleep(0.05)
        second()
        assert (await unused).is_met


class TestDispatch:
    async def test_only_workers_that_have_the_adapter_get_its_requests(self) -> None:
        wire = Wire()
        wire.adapters = {"w": ("1f",)}
        wire.state(v=READY, w=READY, u=READY)
        for number in range(5):
            await begin(wire, f"r{number}", adapter="1f")
        assert len(wire.running("w")) == 5

    async def test_it_goes_on_in_another_that_has_it(self) -> None:
        wire = Wire()
        wire.adapters = {"w": ("1f",), "v": ("1f",)}
        wire.state(w=READY)
        await begin(wire, adapter="1f")
        wire.state(w=READY, u=READY, v=READY)
        wire.state(u=READY, v=READY)
        assert wire.where("r") == "v"

    async def test_a_worker_that_has_just_started_gets_it_a_moment_later(self) -> None:
        wire = Wire()
        wire.state(w=READY)
        _, task = await begin(wire, adapter="1f")
        assert wire.sent == []
        wire.adapters = {"w": ("1f",)}
        wire.state(w=READY)
        assert wire.where("r") == "w"
        wire.answer("w", Output("r", (1,), 0, "stop"))
        assert [each.token_ids for each in await task] == [(1,)]

    async def test_without_a_worker_it_fails_as_others_do(self) -> None:
        wire = Wire()
        wire.state(w=STARTING)
        _, task = await begin(wire, adapter="1f")
        with pytest.raises(PoolUnavailable):
            await task


async def test_metrics_name_the_adapters_of_requests(admin: Client, pool: FakePool) -> None:
    assert pool.state is not None
    (worker,) = pool.state.workers
    load = replace(worker.load, running_adapters=("1f",), waiting_adapters=("gone",))
    pool.state = replace(pool.state, workers=(replace(worker, load=load),))
    text = await (await admin.get("/metrics")).get_data(as_text=True)
    labels = 'max_lora="8",model_name="smol",running_lora_adapters="sql",waiting_lora_adapters=""'
    assert re.search(rf"^headrace:lora_requests_info{{{labels}}} \d", text, re.MULTILINE)
