"""The shell's side: help with examples, errors in one line, Ctrl-C and resuming, start-up."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import typer

from tesserec.cli.app import app
from tesserec.cli.shell import explain, parse_ks
from tesserec.errors import MissingExtra, TrainingRefused, UserError
from tesserec.runs import Run, how_to_resume
from tests.cli.conftest import QUICK, run_cli, sets

COMMANDS = [command.callback.__name__ for command in app.registered_commands]


def test_commands_are_the_promised_ones():
    assert set(COMMANDS) >= {
        "prepare", "train", "evaluate", "compare", "index", "recommend", "interests", "info", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    shown = run_cli(command, "--help")
    assert "Example" in shown
    assert f"tesserec {command}" in shown


def test_version_is_the_package_version():
    import tesserec

    assert run_cli("--version").strip() == tesserec.__version__


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such column"), 2, "no such column"),
        (MissingExtra("torch", "train", "Training"), 2, "tesserec[train]"),
        (TrainingRefused("collapsed"), 3, "collapsed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/disk/file"), 1, "/disk/file: No space left on device; free"),
        (FileNotFoundError(2, "No such file or directory", "log.csv"), 2, "log.csv"),
        (MemoryError("3 GB"), 1, "not enough memory"),
    ],
)
def test_errors_become_a_line_and_a_code(error, code, said):
    message, seen = explain(error)
    assert seen == code
    assert said in message


def test_unforeseen_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError())


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(UserError):
        typer.main.get_command(app).main(["--debug", "info", str(tmp_path / "no")], standalone_mode=False)


def test_cut_offs_are_parsed():
    assert parse_ks("10, 20") == [10, 20]


def shell(*args: object, **kwargs: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tesserec", *map(str, args)], capture_output=True, text=True, timeout=60, **kwargs
    )


def test_process_ends_with_one_line_and_code_two(tmp_path):
    done = shell("info", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_json_on_stdout_is_pure(bundles):
    done = shell("recommend", bundles, "--history", "i00003,nobody", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["unknown"] == ["nobody"]


def test_thread_environment_is_set_before_anything_heavy():
    code = (
        "import sys, os; sys.argv = ['tesserec', '--version']\n"
        "from tesserec.cli import main\n"
        "assert not {'numpy', 'polars', 'numba', 'torch'} & set(sys.modules)\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert os.environ['GOMP_SPINCOUNT'] == '1000' and os.environ['NUMBA_NUM_THREADS'] == '1'\n"
        "assert not {'numpy', 'polars', 'numba', 'torch'} & set(sys.modules), 'start-up imports too much'\n"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "NUMBA_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_interruption_before_the_run_began_says_so(shop, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tesserec.runs.train_run", stopped)
    args = ("train", shop, "--model", "popularity", "--out", tmp_path / "run")
    assert "before the run began" in run_cli(*args, code=130)


def test_the_command_to_go_on_survives_a_shell(tmp_path):
    settings = {"a.b": {"value": "x y", "from": "set"}, "c": {"value": 1, "from": "default"}}
    facts = {"dataset": "/my data", "model": "sparc", "recipe": None, "seed": 3, "settings": settings}
    command = how_to_resume(Run(tmp_path / "a run", facts)).removeprefix("go on with: ")
    assert shlex.split(command) == [
        "tesserec", "train", "/my data", "--model", "sparc", "--set", "a.b=x y", "--seed", "3",
        "--out", str(tmp_path / "a run"), "--resume",
    ]  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the train extra")
def test_interrupted_training_resumes_to_the_same_model(shop, tmp_path):
    """Ctrl-C in the middle ends with code 130 and the command to go on, which ends where a whole run ends."""
    settings = sets([*QUICK, "training.batch_positions=64", "training.epochs=4", "training.precision=fp32"])
    args = ["train", str(shop), "--model", "sasrec", *settings]
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "tesserec", *args, "--out", str(stopped)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (stopped / "log.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "--resume" in error
    assert "Traceback" not in error
    assert not (stopped / "model").exists()
    assert "unfinished" in json.loads(run_cli("info", stopped, "--json"))["state"]
    assert "--resume" in run_cli("evaluate", stopped, code=2)
    run_cli(*args, "--out", stopped, "--resume")
    run_cli(*args, "--out", tmp_path / "whole")
    resumed, whole = (path / "model" / "model.safetensors" for path in (stopped, tmp_path / "whole"))
    assert resumed.read_bytes() == whole.read_bytes()
