"""How a model is loaded and asked, as Python that a card shows."""

__all__ = ["use"]

CHAT = """\
messages = [{"role": "user", "content": "Your question"}]
asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
"""
PLAIN = """\
asked = tokenizer("The beginning of a text", return_tensors="pt", return_token_type_ids=False)
"""
ANSWER = """\
answer = model.generate(**asked, max_new_tokens=128)[0, asked["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def use(name: str, is_adapter: bool, base_beside: bool, base_on_hub: bool, chat: bool = False) -> str:
    """How it is loaded and gives one answer.

    Args:
        name: what it is loaded by.
        chat: whether it was trained on conversations, so that a prompt is a user's turn; else a text to go on from.
    """
    return f"{_load(name, is_adapter, base_beside, base_on_hub)}\n\n{CHAT if chat else PLAIN}{ANSWER}"


def _load(name: str, is_adapter: bool, base_beside: bool, base_on_hub: bool) -> str:
    if not is_adapter:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
        )
    if base_on_hub:
        return (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
        )
    base = f"{name}/base" if base_beside else "path/to/its/base"
    return (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    )
