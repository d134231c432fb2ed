"""Metrics of several processes of one pool."""

import subprocess
import sys
import textwrap
from pathlib import Path


def test_several_processes_are_one_pool(tmp_path: Path) -> None:
    """Each adds to the counters; those of a dead process stay, its load does not."""
    program = textwrap.dedent("""
        import asyncio
        import sys
        from pathlib import Path
        from headrace.frontend.metrics import Metrics
        from headrace.protocol.config import GroupConfig, PoolConfig
        group = GroupConfig(name="g", model="m", model_path="m", text_path="m", served_names=["m"])
        metrics = Metrics(PoolConfig(run_dir=Path("."), groups=[group]))
        async def run():
            metrics.enter()
            observer = metrics.request("m", 5, 1, 16)
            observer.output(2, None)
            observer.finish("stop")
        asyncio.run(run())
        print(metrics.in_flight(), metrics.exposition().decode())
    """)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    load, _, exposition = outputs[1].partition(" ")
    assert load == "1"
    assert 'headrace:generation_tokens_total{engine="",model_name="m"} 4.0' in exposition
    assert (
        'headrace:request_success_total{engine="",finished_reason="stop",model_name="m"} 2.0'
        in exposition
    )
