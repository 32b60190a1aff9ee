"""The GitHub Action's script against a local server, and the pre-commit hook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.main import get_command

from edgepress.benchmarks.ci import github_action, pre_commit
from edgepress.benchmarks.ci.github_comment import body_of, marker, post_comment, pull_request
from edgepress.benchmarks.cli import app
from edgepress.models.errors import RuntimeFailure, UsageError

ROOT = Path(__file__).resolve().parents[3]


class Server(ThreadingHTTPServer):
    """A GitHub with one pull request, number 7."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict] = []
        self.calls: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.answer: int | None = None
        self.foreign: set[int] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _handle(self):
        server = self.server
        server.calls.append((self.command, self.path))
        server.tokens.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
        if server.answer is not None:
            if server.answer == 302:
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/stolen")
                self.end_headers()
                return None
            return self._reply(server.answer, {"message": "no"})
        if self.command == "GET":
            page = int(self.path.rpartition("page=")[2])
            return self._reply(200, server.comments[(page - 1) * 100 : page * 100])
        if self.command == "POST":
            server.comments.append({"id": len(server.comments) + 1, **body})
            return self._reply(201, server.comments[-1])
        number = int(self.path.rpartition("/")[2])
        if number in server.foreign:
            return self._reply(403, {})
        server.comments[number - 1].update(body)
        return self._reply(200, server.comments[number - 1])

    do_GET = do_POST = do_PATCH = _handle

    def _reply(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        return


@pytest.fixture
def github(tmp_path):
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    server.variables = {
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
        "GITHUB_REPOSITORY": "me/models",
        "GITHUB_TOKEN": "secret",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_comment_is_written_once_and_then_kept_up_to_date(github):
    github.comments += [{"id": i + 1, "body": "chatter"} for i in range(150)]
    assert post_comment("first", "models", 7, github.variables) == "created"
    assert post_comment("second", "models", 7, github.variables) == "updated"
    assert post_comment("third", "other", 7, github.variables) == "created"
    ours = [c["body"] for c in github.comments if "edgepress" in c["body"]]
    assert ours == [f"{marker('models')}\nsecond", f"{marker('other')}\nthird"]
    assert github.tokens == {"Bearer secret"}


def test_a_comment_of_somebody_else_with_our_marker_is_left_alone(github):
    github.comments.append({"id": 1, "body": marker("models") + "\nspoof"})
    github.foreign.add(1)
    assert post_comment("ours", "models", 7, github.variables) == "created"
    assert github.comments[0]["body"].endswith("spoof")


def test_a_fork_may_not_comment_and_a_broken_server_is_a_runtime(github):
    github.answer = 403
    assert post_comment("x", "models", 7, github.variables) == "forbidden"
    github.answer = 500
    with pytest.raises(RuntimeFailure, match="answered 500"):
        post_comment("x", "models", 7, github.variables)


def test_the_token_does_not_follow_a_redirect(github):
    github.answer = 302
    with pytest.raises(RuntimeFailure, match="302"):
        post_comment("x", "models", 7, github.variables)
    assert [path for _, path in github.calls if "stolen" in path] == []


def test_the_token_is_never_sent_in_the_clear(github):
    with pytest.raises(UsageError, match="is not https"):
        post_comment("x", "models", 7, {**github.variables, "GITHUB_API_URL": "http://example.org"})


def test_a_long_comment_is_cut_at_a_line():
    body = body_of("line\n" * 20_000, "m")
    assert len(body) < 65_536
    assert body.endswith("(cut: the job summary has the rest)\n")


def test_an_event_without_a_pull_request(tmp_path):
    path = tmp_path / "event.json"
    path.write_text('{"ref": "refs/heads/main"}')
    assert pull_request({"GITHUB_EVENT_PATH": str(path)}) is None
    assert pull_request({}) is None
    path.write_text("{")
    with pytest.raises(UsageError, match="GITHUB_EVENT_PATH"):
        pull_request({"GITHUB_EVENT_PATH": str(path)})


def test_inputs_become_arguments_and_never_shell():
    arguments = github_action.gate_arguments(
        {"INPUT_DEVICE": "cortex-m4, phone", "INPUT_LIMIT": "macs=1M\nfile=2kB\n"}, "-x; rm *.tflite"
    )
    assert arguments == [
        "gate",
        "--device=cortex-m4",
        "--device=phone",
        "--limit=macs=1M",
        "--limit=file=2kB",
        "--",
        "-x; rm *.tflite",
    ]


def test_the_whole_script_on_a_model(github, shared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(shared / "data" / "reference_models" / "kws_ref_model.tflite", tmp_path / "kws.tflite")
    inputs = {**github.variables, "INPUT_FILE": "kws.tflite", "INPUT_LIMIT": "macs=3M"}
    assert github_action.run(inputs) == 0
    assert github_action.run({**inputs, "INPUT_LIMIT": "macs=2M"}) == 1
    (comment,) = github.comments
    assert "❌" in comment["body"]
    assert "| Device | Metric | Baseline | Now | Change | Limit | Headroom |" in comment["body"]
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("## edgepress: models") == 2
    assert (tmp_path / "output").read_text().split() == ["passed=true", "exit-code=0", "passed=false", "exit-code=1"]
    assert "::error title=edgepress gate::a model is over its limit" in capsys.readouterr().out


def test_files_by_line_and_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.tflite", "a.tflite", "[x].tflite"):
        Path(name).touch()
    assert github_action.files_of({"INPUT_FILE": " ?.tflite \n[x].tflite\nnone*.onnx"}) == [
        "a.tflite",
        "b.tflite",
        "[x].tflite",
        "none*.onnx",
    ]
    assert github_action.files_of({}) == [None]


def test_several_files_share_one_comment_failures_first(github, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, source in (("a.tflite", "kws_ref_model"), ("b.tflite", "pretrainedResnet_quant")):
        shutil.copy(shared / "data" / "reference_models" / f"{source}.tflite", name)
    inputs = {**github.variables, "INPUT_FILE": "*.tflite\nc.tflite", "INPUT_LIMIT": "macs=3M"}
    assert github_action.run(inputs) == 2
    (comment,) = github.comments
    headings = [line for line in comment["body"].splitlines() if line.startswith("### ")]
    assert [heading.split(":")[0] for heading in headings] == [
        "### ❌ `c.tflite`",
        "### ❌ b.tflite",
        "### ✅ a.tflite",
    ]


def test_the_budgets_may_name_several_files(github, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, source in (("a.tflite", "kws_ref_model"), ("b.tflite", "pretrainedResnet_quant")):
        shutil.copy(shared / "data" / "reference_models" / f"{source}.tflite", name)
    Path("budgets.toml").write_text('[gate]\nfile = "*.tflite"\n[device.tiny]\nruntime = "tflm"\nmacs = "3 M"\n')
    assert github_action.run(github.variables) == 1
    headings = [line for line in github.comments[0]["body"].splitlines() if line.startswith("### ")]
    assert [heading.split(":")[0] for heading in headings] == ["### ❌ b.tflite", "### ✅ a.tflite"]


def test_a_missing_model_is_told_in_the_comment(github, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert github_action.run({**github.variables, "INPUT_FILE": "none.tflite", "INPUT_LIMIT": "macs=3M"}) == 2
    assert "there is no model none.tflite" in github.comments[0]["body"]


def test_a_broken_comment_does_not_decide(github, shared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    github.answer = 500
    model = shared / "data" / "reference_models" / "kws_ref_model.tflite"
    assert github_action.run({**github.variables, "INPUT_FILE": str(model), "INPUT_LIMIT": "macs=3M"}) == 0
    assert "::warning title=edgepress::GitHub answered 500" in capsys.readouterr().out


def test_action_yml_runs_this_script_and_passes_every_input():
    text = (ROOT / "action.yml").read_text()
    assert "-m edgepress.benchmarks.ci.github_action" in text
    for name in [*github_action._OPTIONS, *github_action._SWITCHES, "FILE", "NAME", "COMMENT"]:
        assert f"INPUT_{name}: ${{{{ inputs.{name.lower().replace('_', '-')} }}}}" in text
    shell = [line for line in text.splitlines() if "run:" in line or line.startswith("        python")]
    assert not any("inputs." in line for line in shell), "an input inside of a script could run as code"


def test_the_examples_of_the_docs_fit_the_action_and_the_command():
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.S)
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    found = [yaml.safe_load(text) for kind, text in blocks if kind == "yaml"]
    workflows = [block for block in found if "jobs" in block]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job["steps"]]
    ours = [step for step in steps if step.get("uses", "").startswith(("./", "<owner>/edgepress@"))]
    assert len(ours) == 2
    for step in ours:
        assert set(step["with"]) <= set(inputs)
    options = {
        option
        for command in get_command(app).commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {
        word
        for _, text in blocks
        for line in text.splitlines()
        if re.search(r"benchmarks (gate|history)|edgepress gate", line)
        for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", line)
    }
    assert "--device" in used
    assert used - {"--rm", "--volume", "--workdir"} <= options


def test_the_examples_of_every_system_are_well_formed():
    """GitHub, GitLab, Azure and pre-commit as YAML, Jenkins by its braces, every shell line by a shell."""
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.S)
    found = [yaml.safe_load(text) for kind, text in blocks if kind == "yaml"]
    github = [block for block in found if "jobs" in block]
    (gitlab,) = [block["gate"] for block in found if "gate" in block]
    (azure,) = [block for block in found if "pool" in block]
    (hooks,) = [block["repos"][0]["hooks"] for block in found if "repos" in block]
    assert len(github) == 2
    assert gitlab["artifacts"] == {"when": "always", "reports": {"junit": "gate.xml"}}
    assert [set(step) & {"checkout", "task", "script"} for step in azure["steps"]].count({"script"}) == 2
    assert azure["steps"][-1]["inputs"] == {"testResultsFormat": "JUnit", "testResultsFiles": "gate.xml"}
    (own,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hooks[0]["id"] == own["id"]
    (jenkins,) = [text for kind, text in blocks if kind == "groovy"]
    code = re.sub(r"'''.*?'''|'[^']*'", "''", jenkins, flags=re.S)
    depth = 0
    for character in code:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    scripts = [text for kind, text in blocks if kind == "sh"] + re.findall(r"sh '''(.*?)'''", jenkins, re.S)
    scripts += gitlab["script"] + [s["script"] for s in azure["steps"] if "script" in s]
    for script in scripts:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_actions_run_on_a_node_that_github_supports():
    """setup-python and checkout of version 6 run on Node 24."""
    texts = [(ROOT / name).read_text() for name in ("action.yml", "docs/ci.md")]
    used = {match for text in texts for match in re.findall(r"uses: (actions/[\w-]+@\S+)", text)}
    assert used == {"actions/checkout@v6", "actions/setup-python@v6"}
    assert "cache: pip" in texts[0]


def test_the_container_and_the_hook_bring_tflite_micro_in_isolated_mode():
    instructions = [line.split()[0] for line in (ROOT / "Containerfile").read_text().splitlines() if line[:1].isupper()]
    assert instructions[0] == "FROM"
    assert set(instructions) <= {"FROM", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD"}
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert "entry: python -I -m edgepress.benchmarks.ci.pre_commit" in hook
    pinned = re.search(r"tflite-micro==\S+(?=;)", (ROOT / "pyproject.toml").read_text())[0]
    assert pinned in hook


def test_switches_and_lists_become_options():
    given = {"INPUT_STRICT": "true", "INPUT_BASELINE": "a.tflite\nb.json\n", "INPUT_SHAPE": "x=1,3,4,4"}
    assert github_action.gate_arguments(given) == [
        "gate",
        "--baseline=a.tflite",
        "--baseline=b.json",
        "--shape=x=1,3,4,4",
        "--strict",
    ]
    assert "--strict" not in github_action.gate_arguments({"INPUT_STRICT": "false"})


def test_several_files_do_not_share_a_foreign_baseline(github, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, source in (("a.tflite", "kws_ref_model"), ("b.tflite", "pretrainedResnet_quant")):
        shutil.copy(shared / "data" / "reference_models" / f"{source}.tflite", name)
    inputs = {**github.variables, "INPUT_FILE": "*.tflite", "INPUT_LIMIT": "macs=30M", "INPUT_BASELINE": "a.tflite"}
    assert github_action.run(inputs) == 0
    body = github.comments[0]["body"]
    assert body.count("| ✅ |") == 2 + 2, "a table in front, and one of each file"
    assert "no baseline is of this network" in body
    assert "the model file is the same to the byte" in body
    assert body.count("<details><summary>") >= 2


def test_the_hook_gates_every_file(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = str(shared / "data" / "reference_models" / "kws_ref_model.tflite")
    assert pre_commit.run(["--limit", "macs=3M", model, model]) == 0
    assert pre_commit.run(["--limit", "macs=3M", model, "none.tflite"]) == 2
    assert pre_commit.run(["--limit", "macs=3M"]) == 0
    assert "edgepress.benchmarks.ci.pre_commit" in (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert sys.version_info >= (3, 11)
