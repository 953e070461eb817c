"""Prompts, model loading and capped rollouts (placeholder; the prompt builder below is final)."""
SYSTEM = (
    "A conversation between User and Assistant. The Assistant first thinks inside <think> </think> "
    "and then gives the answer. The whole output must stay within {cap} tokens."
)
INSTRUCTION = "Reason step by step and put the final answer in \\boxed{}."


def build_prompt(tokenizer, problem: str, cap: int) -> str:
    messages = [
        {"role": "system", "content": SYSTEM.format(cap=cap)},
        {"role": "user", "content": f"{problem}\n{INSTRUCTION}"},
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
