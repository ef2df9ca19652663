"""The examples of docs/serving.md work as they stand, and the files of deploy/ name options that exist."""

import json
import re
import shlex

import pytest

from tesserec.cli.app import app
from tests.faults import ROOT
from tests.index.test_living import publish_vectors
from tests.serving.conftest import client_of

GUIDE = ROOT / "docs" / "serving.md"
pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="needs the docs of a checkout")


def examples():
    text = GUIDE.read_text() if GUIDE.exists() else ""
    rows = re.findall(r"^\| `(/v1/\S+)` \| `(\{.*?\})` \|", text, re.MULTILINE)
    curls = re.findall(r"curl http://127.0.0.1:8080(/\S+).*?-d '(.*?)'", text, re.DOTALL)
    return rows + curls


@pytest.fixture
def client(tmp_path):
    publish_vectors(tmp_path / "bundles")
    with client_of(tmp_path / "bundles", state=str(tmp_path / "events.sqlite")) as client:
        yield client


def test_every_body_is_accepted(client):
    found = examples()
    assert len(found) >= 11
    for path, body in found:
        answer = client.post(path, json.loads(body))
        assert answer.status_code == 200, (path, answer.text)


def test_commands_name_options_that_exist():
    import typer

    options = {
        option
        for one in typer.main.get_command(app).commands["serve"].params
        for option in [*one.opts, *one.secondary_opts]
    }
    for file in (
        GUIDE,
        ROOT / "deploy" / "Dockerfile",
        ROOT / "deploy" / "compose.yaml",
        ROOT / "deploy" / "tesserec.service",
    ):
        text = file.read_text()
        lines = [
            line for line in re.sub(r"\\\n", " ", text).splitlines() if "tesserec serve" in line or '"--state"' in line
        ]
        assert lines
        for line in lines:
            words = (
                re.findall(r"--[a-z-]+", line)
                if '"' in line
                else [w for w in shlex.split(line.replace("`", " "), comments=True) if w.startswith("--")]
            )
            assert set(words) <= options, (file.name, words)
