"""Who may import whom, read from the syntax trees, and what must stay cheap to import.

Imports point downwards only, and never to a neighbour of the same layer:

    types < losses, mixers < data, models < objectives < influence < training < config < together, jobs < frozen < runs
          < fitting, merging, planning, upkeep < sharing < further < verbs < api < cli

`reporting` reads run folders and nothing else of the package. `bars`, `checks`, `course`, `errors`, `files`,
`final_rows`, `fingerprint`, `hub`, `known`, `locks`, `output`, `stopping` and `terminal` are free.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mixalign"
LAYERS = [
    ["types", "chat"],
    ["losses", "mixers"],
    ["data", "models"],
    ["objectives"],
    ["influence"],
    ["training"],
    ["config"],
    ["together", "jobs"],
    ["frozen"],
    ["runs"],
    ["fitting", "merging", "planning", "upkeep"],
    ["sharing"],
    ["further"],
    ["verbs"],
    ["api"],
    ["cli"],
    ["__init__", "__main__"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
FREE = {"bars", "checks", "course", "errors", "files", "final_rows", "fingerprint", "hub"}
FREE |= {"known", "locks", "output", "stopping", "terminal"}
NEIGHBOURS = {("mixers", "mixalign.losses.excess")}  # a mixer says how its excess is clipped
PURE = ("losses", "mixers")  # maths: tensors in, tensors out

ONLY_IN = {  # library -> where it may be imported, and why
    "hydra": (["config/", "verbs/"], "every class can be built in a test with plain arguments"),
    "omegaconf": (["config/", "verbs/", "runs/folder.py"], "every class can be built in a test with plain arguments"),
    "lightning": (
        ["data/batches/module.py", "training/", "config/", "together/", "frozen/", "runs/", "verbs/"],
        "everything below the training loop works without a trainer",
    ),
    "wandb": (
        ["training/callbacks/wandb_board.py", "sharing/dashboard.py"],
        "other code reaches Weights & Biases through Lightning's logger, so that it stays optional",
    ),
    "pytorch_lightning": ([], "its classes are not those of `lightning.pytorch`, and mixing both fails"),
}


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    file: str  # below mixalign/
    line: int
    module: str

    @property
    def importer(self) -> str:
        """Part of the package that imports: a folder, or a module of the top level."""
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def part(self) -> str | None:
        """Part of the package that is imported; None for another library."""
        names = self.module.split(".")
        return None if names[0] != "mixalign" else names[1] if len(names) > 1 else "__init__"

    def __str__(self) -> str:
        return f"mixalign/{self.file}:{self.line} imports {self.module}"


def read_imports(file: str, source: str) -> list[Import]:
    """All imports of a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"mixalign/{file}:{node.lineno}: write the full name, not a relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "mixalign" else [node.module]
            found += [Import(file, node.lineno, name) for name in names]
    return found


def complaint(one: Import) -> str | None:
    """What is wrong with an import, or None."""
    if one.part is None:
        return _about_library(one)
    if one.part in FREE or one.part == one.importer:
        return None
    if one.importer in FREE:
        return f"{one}: {one.importer} is free for all, and so imports nothing of the package"
    if "reporting" in (one.importer, one.part) and one.importer not in ("verbs", "fitting", "sharing", "api"):
        return f"{one}: reporting reads files only, and only verbs, fitting, sharing and api call it"
    if one.part == "reporting" or (one.importer, one.module) in NEIGHBOURS or one.part == "__version__":
        return None
    for part in (one.importer, one.part):
        if part not in LEVEL:
            return f"{one}: `{part}` has no layer yet. Give it one in LAYERS of this test and in the design."
    if LEVEL[one.importer] > LEVEL[one.part]:
        return None
    kind = "a neighbour of the same layer" if LEVEL[one.importer] == LEVEL[one.part] else "a layer above"
    return f"{one}: {one.part} is {kind} of {one.importer}; imports point downwards only"


def _about_library(one: Import) -> str | None:
    library = one.module.split(".")[0]
    if one.importer in PURE and library != "torch" and library not in sys.stdlib_module_names:
        return f"{one}: {one.importer} is pure maths and may not import {library}, only torch and the standard library"
    if library in ONLY_IN:
        places, why = ONLY_IN[library]
        if not one.file.startswith(tuple(places)):
            where = f"only in {', '.join(places)}" if places else "nowhere"
            return f"{one}: {library} may be imported {where}: {why}"
    return None


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_imports_point_downwards(file):
    found = read_imports(file, (PACKAGE / file).read_text())
    assert not (wrong := [text for one in found if (text := complaint(one))]), "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "source", "says"),
    [
        ("mixers/x.py", "import lightning as L", "mixers is pure maths and may not import lightning"),
        ("losses/x.py", "import numpy as np", "losses is pure maths"),
        ("losses/x.py", "import torch.nn.functional as F\nimport math", None),
        ("losses/x.py", "from mixalign.mixers.base import Mix", "neighbour"),
        ("mixers/x.py", "from mixalign.losses.excess import Clip", None),
        ("mixers/x.py", "from mixalign.losses.preference import dpo", "neighbour"),
        ("mixers/x.py", "from mixalign.errors import MixalignError", None),
        ("data/x.py", "from mixalign.models.tiny import TinyLlama", "neighbour"),
        ("data/x.py", "from mixalign.training.fit import Fit", "a layer above"),
        ("data/x.py", "def f():\n    from mixalign import training", "a layer above"),
        ("data/x.py", "import lightning", "only in data/batches/module.py, training/"),
        ("data/batches/module.py", "import lightning", None),
        ("training/x.py", "from omegaconf import DictConfig", "only in config/, verbs/, runs/folder.py"),
        ("training/x.py", "import wandb", "only in training/callbacks/wandb_board.py"),
        ("training/callbacks/wandb_board.py", "import wandb", None),
        ("verbs/x.py", "import pytorch_lightning", "nowhere"),
        ("verbs/x.py", "from mixalign.reporting.show.page import write", None),
        ("reporting/x.py", "from mixalign.types import Batch", "reads files only"),
        (
            "training/x.py",
            "from mixalign.reporting.read.runs import Run",
            "only verbs, fitting, sharing and api call it",
        ),
        ("errors.py", "from mixalign.types import Batch", "imports nothing of the package"),
        ("serving/x.py", "from mixalign.data.batches.loader import EvalLoader", "has no layer yet"),
    ],
)
def test_the_rule_finds_what_it_should(file, source, says):
    (text, *_) = [complaint(one) for one in read_imports(file, source)]
    assert text is None if says is None else text and says in text


@pytest.mark.parametrize("module", ["mixalign", "mixalign.cli"])
def test_the_command_line_starts_without_heavy_libraries(module):
    """`mixalign --help` and shell completion should not wait for torch."""
    heavy = ["torch", "transformers", "lightning", "datasets", "hydra", "matplotlib", "numpy"]
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert result.stdout.split() == [], f"`import {module}` loads {result.stdout}; import it inside the function"


@pytest.mark.long
def test_a_plan_is_made_without_lightning_and_the_next_one_without_code_of_models(tmp_path):
    """Both take longer to load than the rest of a plan takes to make."""
    arguments = ["mixalign", "plan", "--rows=0", "mixer=uniform", f"cache_dir={tmp_path}"]
    for heavy in (["lightning", "torchmetrics"], ["lightning", "torchmetrics", "transformers.modeling_utils", "sympy"]):
        code = (
            f"import atexit, sys; sys.argv = {arguments}; from mixalign.cli import main\n"
            f"atexit.register(lambda: print('loaded:', *{{*{heavy}}} & {{*sys.modules}}))\nmain()"
        )
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        assert "trainings: " in result.stdout
        loaded = result.stdout.partition("loaded:")[2].split()
        assert loaded == [], "import what needs it inside the function"
