"""Children that somebody else has forked. Each test has a process of its own for that: who adopts
once adopts for good."""

import subprocess
import sys
import textwrap

FORK_AWAY = """
import asyncio, os, signal, sys, time
from headrace.launcher.adopted import AdoptedProcess, adopt_orphans, reap_orphans

def fork_away(then):
    ours, theirs = os.pipe()
    between = os.fork()
    if not between:
        child = os.fork()
        if child:
            os.write(theirs, str(child).encode())
            os._exit(0)
        then()
        os._exit(0)
    os.waitpid(between, 0)
    return int(os.read(ours, 20))

def state(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
"""


def run(code: str) -> str:
    """What a program says that begins with FORK_AWAY."""
    source = FORK_AWAY + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_exit_codes_and_signals_are_told() -> None:
    said = run("""
        async def main():
            adopt_orphans()
            exits = AdoptedProcess(fork_away(lambda: os._exit(78)))
            killed = AdoptedProcess(fork_away(lambda: time.sleep(60)))
            print(await exits.wait(), killed.returncode)
            killed.send_signal(signal.SIGKILL)
            print(await killed.wait(), killed.returncode, state(killed.pid))
            killed.send_signal(signal.SIGKILL)  # nothing is there to be killed
        asyncio.run(main())
    """)
    assert said.splitlines() == ["78 None", "-9 -9 gone"]


def test_one_that_ended_before_it_was_known_is_told() -> None:
    said = run("""
        async def main():
            adopt_orphans()
            pid = fork_away(lambda: os._exit(3))
            while state(pid) != "Z":
                await asyncio.sleep(0.01)
            print(await AdoptedProcess(pid).wait())
        asyncio.run(main())
    """)
    assert said == "3"


def test_a_process_that_is_no_child_is_refused() -> None:
    said = run("""
        async def main():
            try:
                AdoptedProcess(os.getppid())
            except OSError as error:
                print(type(error).__name__)
        asyncio.run(main())
    """)
    assert said == "ChildProcessError"


def test_orphans_are_let_go_of_and_the_known_ones_are_not() -> None:
    said = run("""
        adopt_orphans()
        stranger, known = fork_away(lambda: None), fork_away(lambda: None)
        lives = fork_away(lambda: time.sleep(60))
        while state(stranger) != "Z" or state(known) != "Z":
            time.sleep(0.01)
        reap_orphans([known])
        print(state(stranger), state(known), state(lives) in "SR")
        os.kill(lives, signal.SIGKILL)
    """)
    assert said == "gone Z True"
