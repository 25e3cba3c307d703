"""``manage.py events`` as a person and a pipe use it: processes of their own, on a database of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control import ROOT, Control, controlled
from tests.waiting import patient

TYPE = "business.order.placed"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Control]:
    home: Path = tmp_path_factory.mktemp("home")
    with controlled(home, redis_process) as made:
        yield made


def events(control: Control, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "manage.py", "events", *words]
    return subprocess.run(argv, cwd=ROOT, env=control.env, input=text, capture_output=True, text=True, check=False)


def tail(control: Control, *words: str, **options: Any) -> subprocess.Popen[str]:
    argv = [sys.executable, "manage.py", "events", "tail", *words]
    return subprocess.Popen(
        argv,
        cwd=ROOT,
        env=control.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As a terminal starts it: whatever runs these tests behind a shell's "&" passes on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def test_what_is_published_is_told_as_it_comes_until_ctrl_c(control: Control) -> None:
    follower = tail(control, "business.#", "--after", "0", "--source", "client/ann", "--json")
    assert follower.stdout and follower.stderr
    try:
        done = events(control, "publish", TYPE, '{"n": 1}', "--as", "ann", "--key", "o-1")
        assert done.returncode == 0, done.stderr
        lines = [{"type": TYPE, "data": {"n": 2}}, {"type": "system.odd.thing"}]
        lines.append({"specversion": "1.0", "id": "o-3", "source": "client/ann", "type": TYPE, "data": {"n": 3}})
        text = "\n".join(map(json.dumps, lines)) + "\n\n"
        assert events(control, "publish", "--as", "ann", text=text).returncode == 0
        assert "was there" in events(control, "publish", "--as", "ann", text=json.dumps(lines[2])).stdout
        told = [json.loads(follower.stdout.readline()) for _ in range(3)]
        assert [(one["data"]["n"], one["source"]) for one in told] == [(n, "client/ann") for n in (1, 2, 3)]
        follower.send_signal(signal.SIGINT)
        assert (follower.wait(patient(30)), follower.stderr.read()) == (0, "")
    finally:
        follower.kill()
        follower.communicate()


def test_a_reader_that_leaves_ends_it(control: Control) -> None:
    events(control, "publish", TYPE, "{}", "--as", "ann")
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "manage.py", "events", "tail", "--after", "0"]
    done = subprocess.run(
        argv, cwd=ROOT, env=control.env, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (("tail", "a..b"), "", "a..b"),
        (("tail", "--since", "soon"), "", "soon"),
        (("tail", "--after", "-1"), "", "from 0"),
        (("publish", "placed"), "", "placed"),
        (("publish", TYPE, "{"), "", "not JSON"),
        (("publish", "--file", "/nowhere"), "", "/nowhere"),
        (("publish",), '{"type": "business.order.placed"}\n[1]\n', "Line 2"),
        (("publish", "control.delivery.redrive"), "", "control"),
    ],
)
def test_what_can_not_be_done_is_a_sentence(control: Control, words: tuple[str, ...], text: str, said: str) -> None:
    done = events(control, *words, text=text)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
