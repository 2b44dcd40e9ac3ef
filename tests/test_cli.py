"""The command line, in the process where that will do, and as users run it where exit codes and imports matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import limbeck
from limbeck.cli import _plain_ls
from limbeck.commands import app
from limbeck.errors import NotFinite


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def limbeck_process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limbeck", *args], capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the commands ask of the Python interface, recorded instead of run."""
    asked: dict[str, object] = {}
    verdict = {"says": "a >= b + 0.1", "left": (1.0,), "right": (0.5,), "effect": 0.5, "bound": 0.4, "holds": True}

    def distill(key: str, **options: object) -> str:
        asked.update(options, key=key)
        return "runs/a"

    def verify(keys: list[str], **options: object) -> list[dict[str, object]]:
        asked.update(options, keys=keys)
        print("said while running")
        status = "fails" if "sft" in keys else "holds"
        return [{"key": k, "status": status, "verdicts": [verdict], "control": None, "seed_offset": 5} for k in keys]

    monkeypatch.setattr(limbeck, "api", SimpleNamespace(distill=distill, verify=verify), raising=False)
    return asked


def test_ls_imports_neither_torch_nor_the_parser() -> None:
    code = "import sys; sys.argv = ['limbeck', 'ls']; from limbeck.cli import main; main(); " \
        "sys.exit(bool({'torch', 'typer', 'pydantic'} & set(sys.modules)))"  # fmt: skip
    start = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    print(f"ls, interpreter included: {time.perf_counter() - start:.2f} s")


@pytest.mark.parametrize(
    "args", [["ls"], ["ls", "distil", "--json"], ["ls", "--family", "baselines"], ["ls", "--teacher=white-box", "kd"]]
)
def test_the_quick_way_and_the_parser_say_the_same(args: list[str]) -> None:
    assert _plain_ls(args) is not None
    quick = limbeck_process(*args)
    assert quick.returncode == 0 and quick.stdout == invoke(*args).stdout != ""


def test_ls_json_is_an_array_of_records() -> None:
    found = json.loads(limbeck_process("ls", "kd", "--json").stdout)
    fields = ["key", "title", "paper", "family", "kind", "learns", "teacher", "product", "parts", "claim", "status"]
    assert "kd" in [r["key"] for r in found] and all(list(r) == fields for r in found)


def test_ls_lists_what_an_installed_package_adds(tmp_path: Path) -> None:
    # a package of 400 recipes, announced by an entry point
    head = 'recipe = Recipe(key="r-{i}", title="T", paper="arXiv:1", family="lm", kind="method", learns="student", '
    package = tmp_path / "recipes_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    for i in range(400):
        (package / f"r_{i}.py").write_text(head.format(i=i) + 'teacher="self", players={}, stages=())\n')
    info = tmp_path / "recipes_of_mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes-of-mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[limbeck.recipes]\nmine = recipes_of_mine\n")
    start = time.perf_counter()
    done = limbeck_process("ls", "--json", PYTHONPATH=str(tmp_path))
    print(f"ls of more than 400 recipes: {time.perf_counter() - start:.2f} s")
    assert len([r for r in json.loads(done.stdout) if r["key"].startswith("r-")]) == 400
    # one broken file among them is an error that names it
    (package / "r_7.py").write_text("recipe = (\n")
    done = limbeck_process("ls", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and f"{package}/r_7.py:1: syntax error" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["ls", "--family", "baseline"], 2, "unknown family 'baseline'; did you mean 'baselines'?"),
        (["ls", "--famly", "lm"], 2, "No such option: --famly"),
        (["show", "kdd"], 2, "unknown recipe 'kdd'; did you mean 'kd'?"),
        (["shw", "kd"], 2, "Did you mean 'show'"),
        (["show"], 2, "Missing"),
        (["plan", "gkd", "--teacher", "x"], 2, "`limbeck plan` is not available in this version"),
        (["export", "runs/a", "--to", "gguf"], 2, "`limbeck export` is not available in this version"),
        (["recommend", "--help"], 2, "`limbeck recommend` is not available in this version"),
        (["distill"], 2, "give the key of a recipe"),
        (["distill", "kd", "--data", "d"], 2, "--out is missing"),
        (["distill", "kd", "--out", "o"], 2, "--data is missing"),
        (["distill", "kd", "--out", "o", "--set", "steps"], 2, "--set wants name=value, got 'steps'"),
        (["distill", "kd", "--out", "o", "--max-time", "soon"], 2, "--max-time wants a duration"),
        (["distill", "kd", "--seed", "x"], 2, "seed"),
        (["distill", "--recipe", "nowhere.py", "--out", "o"], 2, "no recipe file nowhere.py"),
        (["verify"], 2, "give keys of recipes, or --all"),
        (["data", "check", "/nowhere.jsonl"], 2, "/nowhere.jsonl"),
        (["new", "My Method"], 2, "a key is lower-case words"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(args: list[str], code: int, said: str) -> None:
    done = invoke(*args)
    assert done.exit_code == code and not done.stdout
    assert said in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("limbeck: ")


def test_exit_codes_reach_the_shell() -> None:
    assert limbeck_process("ls", "--family", "baseline").returncode == 2
    assert limbeck_process("cite", "kdd").returncode == 2
    assert limbeck_process("--version").stdout.startswith("limbeck ")
    assert limbeck_process().stdout.startswith("Usage: limbeck")


def test_help_does_not_offer_what_does_not_exist() -> None:
    shown = invoke("--help").stdout
    assert "distill" in shown and not any(f"  {name} " in shown for name in ("plan", "recommend", "export"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFinite("the loss became NaN at step 3"), 1, "the loss became NaN at step 3"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines (run with --debug for the traceback)"),
        (KeyboardInterrupt(), 130, "interrupted; a run goes on where it stopped with --resume"),
    ],
)
def test_failures_have_codes_and_tracebacks_only_on_demand(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(limbeck, "api", SimpleNamespace(distill=fail), raising=False)
    args = ["distill", "kd", "--data", "d", "--out", "o"]
    done = invoke(*args)
    assert done.exit_code == code and done.stderr == f"limbeck: {said}\n"
    assert ("Traceback" in invoke(*args, "--debug").stderr) == (code == 1)


def test_options_reach_the_interface(api: dict[str, object]) -> None:
    done = invoke(
        "distill", "kd", "--teacher", "t", "--data", "d", "--out", "o", "--player", "critic=c", "--set", "lr=1e-4",
        "--set", "distill.steps=5", "--batch-size", "8", "--max-time", "1h30m", "--tracker", "wandb", "--resume",
    )  # fmt: skip
    assert done.exit_code == 0 and done.stdout == "runs/a\n"
    assert api["key"] == "kd" and api["teacher"] == "t" and api["student"] is None and api["resume"] is True
    assert api["players"] == {"critic": "c"} and api["set"] == {"lr": "1e-4", "distill.steps": "5"}
    assert api["batch_size"] == 8 and api["max_time"] == 5400 and api["trackers"] == ("wandb",)


CONFIG = """
key: kd
data: rows.jsonl
batch-size: 4
seed: 3
tracker: [wandb]
set: {distill: {steps: 7, clip: 1.0}, lr: 1e-4}
player: {critic: c}
"""


def test_a_configuration_gives_defaults_and_the_command_line_wins(api: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    done = invoke("distill", "--config", f"{tmp_path}/run.yaml", "--out", "o", "--seed", "9", "--set", "distill.clip=2")
    assert done.exit_code == 0, done.stderr
    assert (api["key"], api["data"], api["batch_size"], api["seed"]) == ("kd", "rows.jsonl", 4, 9)
    assert api["set"] == {"distill.steps": 7, "distill.clip": "2", "lr": "1e-4"} and api["players"] == {"critic": "c"}
    assert api["trackers"] == ("wandb",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchsize: 3", "unknown option 'batchsize' in"),
        ("batch_size: many", "batch"),
        ("set: [lr=1]", "set must map paths to values"),
        ("- kd", "must map names of options to values, got list"),
        ("a: [", "not YAML"),
    ],
)
def test_a_configuration_with_a_mistake_is_refused(
    text: str, said: str, api: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    done = invoke("distill", "kd", "--out", "o", "--data", "d", "--config", f"{tmp_path}/run.yaml")
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not api


def test_verify_prints_both_sides_of_every_seed(api: dict[str, object]) -> None:
    done = invoke("verify", "kd", "--seeds", "4", "--seed-offset", "5")
    assert done.exit_code == 0 and api["keys"] == ["kd"] and api["seeds"] == 4
    assert "kd: holds" in done.stdout and "seed 5: 1 against 0.5" in done.stdout
    # what does not hold is exit 1; JSON is alone on stdout
    done = invoke("verify", "kd", "sft", "--json")
    assert done.exit_code == 1 and [e["status"] for e in json.loads(done.stdout)] == ["fails", "fails"]
    assert "said while running" in done.stderr


def test_show_and_cite_tell_of_a_recipe() -> None:
    shown = invoke("show", "kd")
    assert shown.exit_code == 0 and "## Parts" in shown.stdout and "```bibtex" not in shown.stdout
    page = json.loads(invoke("show", "kd", "--json").stdout)
    assert page["players"]["student"]["optimizer"]["part"] and page["parts"] and page["citation"] in shown.stdout
    assert invoke("cite", "kd").stdout.startswith("@misc{kd,\n")


def test_a_new_recipe_can_be_shown_at_once(tmp_path: Path) -> None:
    done = invoke("new", "my-method", "--in", str(tmp_path))
    path = tmp_path / "my_method.py"
    assert done.exit_code == 0 and str(path) in done.stdout
    page = json.loads(invoke("show", str(path), "--json").stdout)
    assert page["key"] == "my-method" and page["settings"]["distill.student.loss.soft.temperature"] == 2.0
    assert invoke("new", "my-method", "--in", str(tmp_path)).exit_code == 2


def test_doctor_reports_what_is_there() -> None:
    done = invoke("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["versions"]["torch"].startswith("2.") and found["torch"]["threads"] >= 1 and found["cpus"] >= 1
    assert done.exit_code == (1 if found["missing"] else 0)


def test_data_check_shows_what_is_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "answer": str(i)} for i in range(50)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    found = json.loads(invoke("data", "check", str(tmp_path / "d.jsonl"), "--json", "--rows", "2").stdout)
    assert found["rows"] == 51 and found["repeated"] == 1 and found["train"] + found["held_out"] == 50
    assert found["columns"] == {"prompt": "str", "answer": "str"} and len(found["first"]) == 2
    assert found["first"][0] in rows


def test_an_interrupt_ends_a_process_with_130(tmp_path: Path) -> None:
    fields = "key='k', title='', paper='', family='', kind='', learns='', teacher='', players={}, stages=()"
    text = f"import time\nprint('up', flush=True)\ntime.sleep(30)\nrecipe = Recipe({fields})\n"
    (tmp_path / "slow.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "show", str(tmp_path / "slow.py")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a suite that was started in the background hands an ignored SIGINT on to its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and said.startswith("limbeck: interrupted;")
