"""Every command of README.md, CONTRIBUTING.md and docs/ runs, or is understood where it asks for a cluster or a hub."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from mixalign import Result
from mixalign import cli as command_line
from mixalign.config.arguments import overrides_of as as_overrides
from mixalign.config.compose import as_today, compose_settings

ROOT = Path(__file__).resolve().parents[1]
README, OWN_TASKS = (ROOT / "README.md").read_text(), (ROOT / "docs" / "own_tasks.md").read_text()
OF_OTHER_TESTS = ("formats.md", "arena.md", "paper.md", "which_mixer.md")
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in OF_OTHER_TESTS]
TEXT = "\n".join([README, *(page.read_text() for page in [ROOT / "CONTRIBUTING.md", *PAGES])])
LONGEST_README = 120  # lines
WITH_KEYS = ("train", "plan", "specialists", "score")
OF_HYDRA = ("-m", "hydra.", "launcher=", "--config-dir")  # words that are not the run's own configuration
NOT_HERE = {  # words of a command that cannot run in a test, and why; its configuration is composed
    "mine": "a configuration of the reader's own",
    "my_conf": "a configuration of the reader's own",
    "tasks": "a folder of the reader's own",
    "launcher=submitit": "tests/program/test_ranks_cli.py runs it",
    "launcher=joblib": "tests/program/test_ranks_cli.py runs it",
    "trainer=fsdp2": "tests/invariants/test_sharded.py runs it",
    "trainer=ddp": "tests/program/test_ranks_cli.py runs it",
    "mixer.draw=range(0,32)": "tests/fitting runs it",
    "--method": "tests/fitting and tests/merging run it",
    "runs/tried": "tests/fitting runs it",
    "--help": "Hydra prints it, and tests/program/test_cli.py looks at ours",
}
ELSEWHERE = {  # words of commands on finished runs that other tests run
    "--data": "tests/further/test_further.py",
    "--lm-eval": "tests/further/test_harness.py",
}
OF_OTHERS = ("weights_only=True",)  # settings of other programs
WITH = {
    "mixer.size_corrected=true": ["mixer=gr_dpo"],
    "mixer.clip=task": ["mixer=ama_r"],
    "mixer.m=choice(0.1,0.15,0.3)": ["mixer=ideal"],
    "model.gguf_file=a.gguf": ["model=gguf"],
    "logger.wandb.offline=true": ["logger=wandb"],
}


def commands() -> list[str]:
    """`mixalign ...` in blocks of code and in lines, without what the shell and the prose put around it."""
    blocks = [line for block in TEXT.split("\n```")[1::2] for line in _joined(block)]
    inline = re.findall(r"`((?:[A-Z_]+=\S+ )*mixalign [a-z][^`\n]*)`", TEXT)
    found = []
    for text in [*blocks, *inline]:
        match = re.search(r"(?:^|[A-Z=] |-m )mixalign ([a-z].*)", text.partition(" #")[0])
        if match and "..." not in text:
            found.append(match.group(1).strip())
    return list(dict.fromkeys(found))


def _joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def words_of(command: str) -> tuple[str, list[str]]:
    verb, *words = shlex.split(command)
    return verb, words


def overrides_of(words: list[str]) -> list[str]:
    """The configuration of a command; of a sweep that of its first run."""
    plain = [word for word in words if "=" in word and not word.startswith(OF_HYDRA)]
    parsed = OverridesParser.create().parse_overrides(as_today(plain))
    first = [(o, _first(o) if o.is_sweep_override() else None) for o in parsed]
    return [f"{o.key_or_group}={value}" if value is not None else str(o.input_line) for o, value in first]


def _first(override: Override) -> str:
    """The first value of a sweep, or of an interval its lower end."""
    if override.is_interval_sweep():
        return str(override.value().start)
    return next(iter(override.sweep_string_iterator()))


ALL = commands()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= LONGEST_README, "a page under docs/ takes what is more than a beginning"


def test_there_are_commands():
    assert len(ALL) > 15
    assert len(spans()) > 15


@pytest.mark.parametrize("command", ALL)
def test_a_command_is_understood(command):
    verb, words = words_of(command)
    assert verb in command_line.verbs()
    if verb in WITH_KEYS and not {"data=mine", "mixer=hardest", "--help"} & {*words}:
        compose_settings([text for text in overrides_of(words) if "VALUE" not in text])


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [c for c in ALL if words_of(c)[0] in WITH_KEYS and not any(mark in c for mark in NOT_HERE)],
)
def test_a_command_runs(cli, tiny, tmp_path, command):
    verb, words = words_of(command)
    drop = ("run_dir=", "steps=", "cache_dir=")
    kept = [word for word in words if not word.startswith(drop)]
    tasks = [text for text in tiny() if not text.startswith("data.")] if "objective=" in command else tiny()
    place = [f"run_dir={tmp_path / 'run'}"] if verb == "train" else []
    small = ["mixer.rounds=1", "influence.bootstrap=10"] if "mixer=ideal" in command else []
    done = cli(verb, *(w for w in kept if w == "-m"), *tasks, *(w for w in kept if w != "-m"), *small, *place)
    assert done.returncode == 0, done.stderr


def spans() -> list[str]:
    """`key=value` in lines of prose."""
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    return sorted({text for text in re.findall(r"`([a-z_]+(?:\.[\w.]+)?=[^\s`]+)`", prose) if text not in OF_OTHERS})


@pytest.mark.parametrize("text", spans())
def test_a_setting_is_understood(text):
    compose_settings([*WITH.get(text, []), *overrides_of([text])])


def test_the_example_in_python_is_understood():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (call,) = [node for node in ast.walk(ast.parse(block)) if getattr(getattr(node, "func", None), "id", "") == "train"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert given.pop("run_dir")
    settings = compose_settings([*(ast.literal_eval(argument) for argument in call.args), *as_overrides(given)])
    assert [*settings.data.tasks] == ["math", "safe"]
    assert settings.model.path.startswith("Qwen/")
    for name in re.findall(r"result\.(\w+)", block):
        assert hasattr(Result, name)


def test_the_example_of_tasks_is_understood(in_process, tiny_local, tmp_path, monkeypatch):
    """Without `chat`, which is on the hub."""
    (block,) = re.findall(r"```yaml\n(.*?)```", OWN_TASKS, re.DOTALL)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(block)
    rows = [{"question": f"{n}+1=", "prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": "0"} for n in range(20)]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "safe.parquet")
    monkeypatch.chdir(tmp_path)
    own = [text for text in tiny_local() if not text.startswith("data=")]
    code, out, err = in_process("plan", "--config-dir", "conf", "data=mine", "data.tasks.chat=null", *own)
    assert code == 0, err
    assert "math" in out
    assert "safe" in out


def test_hooks_are_the_checks_and_nothing_is_downloaded():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    checks = re.findall(r"\$\(BIN\)/((?:ruff|mypy).*)", (ROOT / "Makefile").read_text())
    first = {" ".join(re.findall(r"^[a-z]+|(?<= )[a-z]+", check)) for check in checks}
    assert (
        {hook["entry"].partition(" --")[0] for hook in repo["hooks"]} == first == {"ruff format", "ruff check", "mypy"}
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        c
        for c in ALL
        if words_of(c)[0] in ("report", "evaluate") and len(c.split()) > 1 and not {*ELSEWHERE} & {*c.split()}
    ],
)
def test_a_command_on_finished_runs_runs(cli, finished, tmp_path, command):
    shutil.copytree(finished, tmp_path / "runs" / "a")
    verb, words = words_of(command)
    places = {word: str(tmp_path / "runs") for word in words if word == "runs" or word.startswith("runs/")}
    places["RUN"] = str(tmp_path / "runs" / "a")
    done = cli(verb, *(places.get(word, word) for word in words))
    assert done.returncode == 0, done.stderr
    assert "ama_s" in done.stdout


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", TEXT)) | set(re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE))
    assert named <= targets
    assert {"demo", "test", "check"} <= named
