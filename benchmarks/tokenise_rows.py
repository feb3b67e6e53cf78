"""Rows to token ids: rows a second of mixalign and of TRL's preparation, on real rows and on long conversations.

Both start from the same rows in memory with the same tokenizer. For mixalign the clock runs from rows to the finished
table (`to_example` and `tokenise`, with the check of sampled conversations), for TRL inside its trainer's
`_prepare_dataset` alone: neither the model nor the trainer's making is counted, nor how the rows become a `Dataset`.
Rows are not truncated, so that both make the same number of tokens, which is compared. CPU-seconds stand beside wall
seconds, but for the processes that TRL forks.

Variants: `ours_1`, one process and one thread; `ours`, as it comes; `trl`, as it comes; `trl_procs`, with
`dataset_num_proc` of all cores. `check` is the share of the time that the sampled check takes, on 20,000 conversations.
Real rows are every third one of `--data`, as text and as conversations; without it there are generated ones only.
"""

import argparse
import gc
import gzip
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, print_table, require_trl, run_benchmark, spread, write_json

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MAX_LENGTH = 10**6  # nothing is cut off
CHECKED = 20_000  # conversations
BRACKETS = re.compile(r"\{%-? (end)?generation %\}")
VARIANTS = {
    "ours_1": {},
    "ours": {"TOKENIZERS_PARALLELISM": "true"},
    "trl": {"TOKENIZERS_PARALLELISM": "true"},
    "trl_procs": {},  # its processes are forked, which threads of the tokenizer do not survive
}
Rows = list[dict[str, Any]]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=DATA, help="folder of preference/ and sft/; default: %(default)s")
    options = made.parse_args()
    require_trl()
    if options.short and not options.worker:
        options.repeats = 1
    found = run_benchmark(__file__, options, VARIANTS, _work, checks=("check",))
    if found is None:
        return
    names = list(found["trl"][0]["rows"])
    speed, of_cpu = (
        {name: {v: spread([r[key] for r in found[v]], name) for v in VARIANTS} for name in names}
        for key in ("rows_per_s", "rows_per_cpu_s")
    )
    _check_tokens(found)
    ratios = {name: _ratios(speed[name], of_cpu[name]) for name in names}
    print_table(
        ["rows/s", *VARIANTS, *(key.replace("_vs_", " / ") for key in ratios[names[0]])],
        [[n, *(float(speed[n][v][0]) for v in VARIANTS), *ratios[n].values()] for n in names],
    )
    share = found["check"][0]["share"]
    print(f"the sampled check: {100 * share:.2f} % of the tokenisation of {CHECKED:,} conversations")
    figures = {f"{name}_{ratio}": value for name in names for ratio, value in ratios[name].items()}
    more = {"check_share": share, "rows": found["trl"][0]["rows"], "rows_per_s": speed, "rows_per_cpu_s": of_cpu}
    write_json(options.json, "tokenise_rows", "cpu", figures, **more, runs=found)


Figure = tuple[float, float, float]  # median, least, most


def _ratios(speed: dict[str, Figure], of_cpu: dict[str, Figure]) -> dict[str, float]:
    return {
        "ours_1_vs_trl_per_cpu_s": of_cpu["ours_1"][0] / of_cpu["trl"][0],
        "ours_vs_trl": speed["ours"][0] / speed["trl"][0],
        "ours_vs_trl_procs": speed["ours"][0] / speed["trl_procs"][0],
    }


def _check_tokens(found: dict[str, Rows]) -> None:
    """Both sides made the same number of tokens of the same rows."""
    wanted = found["trl"][0]["tokens"]
    for variant in VARIANTS:
        for record in found[variant]:
            if record["tokens"] != wanted:
                raise SystemExit(f"{variant} made other tokens than TRL: {record['tokens']}, not {wanted}")


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    if variant == "check":
        return {"share": _share_of_check(options)}
    tokenizer = _tokenizer(options)
    record: dict[str, Any] = {"rows_per_s": {}, "rows_per_cpu_s": {}, "tokens": {}, "rows": {}}
    for name, (kind, rows, marked, template) in _workloads(options).items():
        tokenizer.chat_template = template
        if variant.startswith("trl"):
            workers = os.cpu_count() if variant == "trl_procs" else None
            clock, tokens = _theirs(kind, rows, tokenizer, marked, workers, options.models)
        else:
            clock, tokens = _ours(kind, rows, tokenizer, 1 if variant == "ours_1" else None)
        record["rows_per_s"][name], record["rows_per_cpu_s"][name] = (len(rows) / seconds for seconds in clock)
        record["tokens"][name], record["rows"][name] = tokens, len(rows)
    return record


# --- rows ---------------------------------------------------------------------------------------------------------


def _workloads(options: argparse.Namespace) -> dict[str, tuple[str, Rows, bool, str]]:
    """Name to trainer, rows, whether TRL learns marked turns only, and the chat template."""
    from mixalign.chat.templates import template_text

    marked = template_text("chatml")
    plain = BRACKETS.sub("", marked)
    few = 8 if options.short else 1
    loads: dict[str, tuple[str, Rows, bool, str]] = {}
    if options.data.is_dir():
        pairs, answers = (real_rows(options.data / name)[:: 3 * few] for name in ("preference", "sft"))
        loads |= {"pairs": ("DPO", pairs, False, plain), "answers": ("SFT", answers, False, plain)}
        loads |= {f"{name}_chat": (kind, [_as_turns(row) for row in rows], False, plain)
                  for name, (kind, rows, _, _) in loads.items()}  # fmt: skip
    for turns, words, number in ((50, 20, 240), (200, 100, 24)):
        rows = _conversations(number // few, turns, words)
        loads |= {f"turns_{turns}": ("SFT", rows, False, plain), f"turns_{turns}_marked": ("SFT", rows, True, marked)}
    return loads


def real_rows(folder: Path) -> Rows:
    rows = []
    for path in sorted(folder.glob("*/train.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows += [json.loads(line) for line in stream]
    return rows


def _as_turns(row: dict[str, str]) -> dict[str, Any]:
    """A question and answers of text as turns, without the headings of the text."""
    asked = row["prompt"].removeprefix("Human: ").removesuffix("\n\nAssistant:")
    turns = {name: [{"role": "assistant", "content": text.strip()}] for name, text in row.items() if name != "prompt"}
    return {"prompt": [{"role": "user", "content": asked}], **turns}


def _conversations(number: int, turns: int, words: int, seed: int = 0) -> Rows:
    """Conversations of random words, each turn of half to one and a half times so many."""
    rng = np.random.default_rng(seed)
    letters = list("etaoinshrdlcumwfgypbvk")
    vocabulary = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 2000)]
    rows = []
    for _ in range(number):
        lengths = rng.integers(words // 2, words + words // 2 + 1, turns)
        texts = [" ".join(vocabulary[n] for n in rng.integers(0, 2000, length)) for length in lengths]
        rows.append({"messages": [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]})
    return rows


def _tokenizer(options: argparse.Namespace) -> Any:
    """That of the data folder, else one trained on generated text; with the tokens of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if (file := options.data / "tokenizer-4k.json").is_file():
        core = Tokenizer.from_file(str(file))
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        texts = (turn["content"] for row in _conversations(100, 50, 20) for turn in row["messages"])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=4096, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
        )
        core.train_from_iterator(texts, trainer)
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<pad>")


# --- the two sides ------------------------------------------------------------------------------------------------


Clock = tuple[float, float]  # seconds on the wall, and of this process on all cores


def _timed(call: Callable[[], Any]) -> tuple[Clock, Any]:
    gc.collect()
    start, busy = time.perf_counter(), time.process_time()
    made = call()
    return (time.perf_counter() - start, time.process_time() - busy), made


def _tokenise(kind: str, rows: Rows, tokenizer: Any, workers: int | None) -> Any:
    from mixalign.data.read.formats import to_example
    from mixalign.data.tokens.tokenise import tokenise

    form: Any = {"DPO": "preference", "SFT": "supervised"}[kind]
    examples = [to_example(row, {}, chat=True) for row in rows]
    return tokenise(examples, tokenizer, task="t", form=form, max_length=MAX_LENGTH, workers=workers)[0]


def _ours(kind: str, rows: Rows, tokenizer: Any, workers: int | None) -> tuple[Clock, int]:
    _tokenise(kind, rows[:2], tokenizer, 1)  # modules are imported, the template is compiled
    clock, dataset = _timed(lambda: _tokenise(kind, rows, tokenizer, workers))
    return clock, len(dataset.ids_T)


def _theirs(
    kind: str, rows: Rows, tokenizer: Any, marked: bool, workers: int | None, folder: Path
) -> tuple[Clock, int]:
    import datasets
    import trl
    from transformers import LlamaConfig, LlamaForCausalLM

    class Clocked(getattr(trl, f"{kind}Trainer")):  # type: ignore[misc]
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            clock, made = _timed(lambda: super(Clocked, self)._prepare_dataset(*args, **kwargs))
            clocks.append(clock)
            return made

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    settings: dict[str, Any] = {"output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False}
    settings |= {"max_length": MAX_LENGTH, "gradient_checkpointing": False, "dataset_num_proc": workers}
    settings |= {"assistant_only_loss": True} if marked else {}
    clocks: list[Clock] = []
    for part in (rows[:2], rows):
        model, other = (LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)) for _ in range(2))
        more = {"ref_model": other} if kind == "DPO" else {}
        table = datasets.Dataset.from_list(part)
        args = getattr(trl, f"{kind}Config")(**settings)
        trainer = Clocked(model=model, args=args, train_dataset=table, processing_class=tokenizer, **more)
    names = ("prompt_ids", "chosen_ids", "rejected_ids") if kind == "DPO" else ("input_ids",)
    return clocks[-1], sum(len(ids) for name in names for ids in trainer.train_dataset[name])


def _share_of_check(options: argparse.Namespace) -> float:
    """Seconds of the sampled check over those of all the rest, in one process and one thread."""
    from mixalign.chat.templates import template_text
    from mixalign.data.tokens.reader import Reader

    tokenizer = _tokenizer(options)
    tokenizer.chat_template = template_text("chatml")
    rows = _conversations(CHECKED, 6, 30)
    looked = 0.0
    look = Reader._look

    def clocked(*args: Any) -> Any:
        nonlocal looked
        start = time.perf_counter()
        made = look(*args)
        looked += time.perf_counter() - start
        return made

    Reader._look = clocked  # type: ignore[method-assign]
    (seconds, _), _ = _timed(lambda: _tokenise("SFT", rows, tokenizer, 1))
    return looked / (seconds - looked)


if __name__ == "__main__":
    main()
