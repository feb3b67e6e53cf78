"""What is looked at before torch is loaded."""

import subprocess
import sys

import pytest

from mixalign.config.first_look import check_words
from mixalign.errors import MixalignError


@pytest.mark.parametrize(
    "arguments",
    [
        ["stepz=3"],
        ["mixer=amas"],
        ["-m", "mixer=ama_s,ama_r", "stepz=3,4"],
        ["--rows", "3", "rows=4", "stepz=3"],
        ["--json", "~stepz"],
        ["mixer.etta=1"],
    ],
)
def test_words_that_there_are_not_are_refused(arguments):
    with pytest.raises(MixalignError, match=r"stepz|amas|etta"):
        check_words("plan", arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "4"], "`--steps` is a key, not an option. Write it without dashes: steps=..."),
        (["--batch-size=4"], "Write it without dashes: batch_size=4"),
        (["--mixer=ama_s"], "Write it without dashes: mixer=ama_s"),
        (["data.tasks.a.path=my", "file.jsonl"], "quotes around both: 'data.tasks.a.path=my file.jsonl'"),
        (["steps", "=4"], "`=4` has no key before its `=`"),
    ],
)
def test_habits_of_other_programs_are_answered(arguments, says):
    with pytest.raises(MixalignError) as error:
        check_words("train", arguments)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["steps=3", "mixer=ama_r"],
        ["-m", "mixer=ama_s,ama_r", "steps=range(1,3)", "seed=0,1", "run_dir=a,b"],
        ["-m", "mixer=glob(ama_*)", "optimizer.lr=interval(0.1,1)"],
        ["-m", "data.root='a,b'", "hydra.sweeper.params={}"],
        ["--rows=3", "rows=4", "data.tasks.math.path=math.jsonl"],
        ["steps=3", "--rows", "3"],
        ["--config-name=mine", "stepz=3"],
        ["--cfg", "job", "stepz=3"],
        ["+callbacks.mine._target_=a.b"],
    ],
)
def test_all_else_goes_on(arguments):
    check_words("plan", arguments)


def test_an_argument_of_one_verb_is_a_key_for_others():
    with pytest.raises(MixalignError, match="`rows` is no setting"):
        check_words("train", ["rows=3"])


@pytest.mark.parametrize("arguments", ["train stepz=3", "train --help", "plan --help mixer=ama_s", "score mixer=amas"])
def test_neither_help_nor_a_typo_loads_torch(arguments):
    code = (
        "import sys; from mixalign.cli import main\n"
        f"sys.argv = ['mixalign', *'{arguments}'.split()]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('LOADED', *sorted({'torch', 'transformers', 'lightning'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "LOADED"
