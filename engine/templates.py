"""What a chat template makes of our prompt, seen by rendering it: system role, date, <think>, the end of a turn.

Templates differ in all of these, and nothing fails by itself where one does not fit: the cap is never named, the model
does not think, or no rollout ends. So each is looked at when a model is loaded, and what is wrong is said in a line.
"""

import datetime
import os

import jinja2

from engine.files import Options, die, explained, note
from engine.hub import online

USER, SYSTEM, ANSWER = "a problem zq1", "what is asked zq2", "an answer zq3"  # words that no template writes itself
SWITCHES = ("enable_thinking", "thinking")  # names under which public templates switch thinking on and off


def load_tokenizer(path: str, template_options: dict | None = None):
    """The model's tokenizer; exits with status 2 where it has no chat template or no end token.

    Args:
        template_options: Variables of the chat template; they stay with the tokenizer, for `chat_text`.
    """
    from transformers import AutoTokenizer

    what = f"--model {path}: tokenizer not found"
    if not os.path.isdir(path) and not online():
        what = f"--model {path} is no folder, the cache lacks it, and the hub does not answer; name a model's folder"
    with explained(what, OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if not tokenizer.chat_template:
        die(f"--model {path}: its tokenizer has no chat template; take the chat or distilled version of the model")
    if tokenizer.eos_token_id is None:
        die(f"--model {path}: its tokenizer has no end token, so no rollout could ever finish")
    tokenizer.template_options, tokenizer.system_role = dict(template_options or {}), True
    return tokenizer


def fitting(tokenizer, messages: list[dict]) -> list[dict]:
    """The chat as the template takes it: where it has no system role, that text stands before the user's."""
    if not getattr(tokenizer, "system_role", True) and messages[0]["role"] == "system":
        first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        messages = [messages[1] | {"content": first}, *messages[2:]]
    return messages


def chat_text(tokenizer, messages: list[dict]) -> str:
    """The chat as the model reads it, up to where it answers; to be encoded without adding special tokens.

    Where the template has no system role (see `check_template`), the system text stands before the user's. A date that
    the template writes is always 26 July 2024, so that a prompt is the same tomorrow.
    """
    return render(tokenizer, fitting(tokenizer, messages), add_generation_prompt=True)


def render(tokenizer, messages: list[dict], day: int = 26, **options) -> str:
    """The template's text with the options that the tokenizer was loaded with, on this day of July 2024."""
    options = getattr(tokenizer, "template_options", {}) | options | {"tokenize": False}
    template = options.pop("chat_template", None) or tokenizer.get_chat_template()
    if "strftime_now" in template:  # a function that is handed in does not get through, a macro does
        date = datetime.datetime(2024, 7, day)
        codes = {f"%{code}": date.strftime(f"%{code}") for code in "aAbBcdHIjmMpSxXyY"} | {"%-d": f"{day}", "%-m": "7"}
        filters = " ".join(f"| replace({code!r}, {text!r})" for code, text in codes.items())
        template = "{% macro strftime_now(format) %}{{ format " + filters + " }}{% endmacro %}" + template
    return tokenizer.apply_chat_template(messages, chat_template=template, **options)


def keeps_system(tokenizer) -> bool:
    """Whether the template takes a system message and writes its text."""
    try:
        text = chat_text(tokenizer, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}])
    except jinja2.TemplateError:  # also what a template raises on purpose
        return False
    return SYSTEM in text


def check_template(tokenizer, options: Options) -> None:
    """Says what the template does that a user must know; exits with status 2 where training could not work."""
    name = f"--model {options.model}: the chat template"
    tokenizer.system_role = keeps_system(tokenizer)
    chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    text = chat_text(tokenizer, chat)
    if SYSTEM not in text or USER not in text:
        die(f"{name} does not write the user's message, so no problem would reach the model; mend the template")
    if not tokenizer.system_role:
        note(f"{name} has no system role: the system text, with the cap, stands before the problem")
    if render(tokenizer, chat[1:], day=27) != render(tokenizer, chat[1:]):
        note(f"{name} writes today's date: it is always 26 July 2024 here, so that prompts stay the same")

    def thinks(text: str) -> int:
        """1 where the answer begins inside <think>, -1 where the thinking is closed already, 0 where neither stands."""
        opened, closed = (text.rpartition(USER)[2].rfind(tag) for tag in ("<think>", "</think>"))
        return (opened > closed) - (closed > opened)

    def switched(on: bool) -> list[tuple[str, str]]:
        """(the option that sets a switch, the text with it) for each switch that is not set and changes the text."""
        found = []
        for switch in SWITCHES:
            tokenizer.template_options = options.template_options | {switch: on}
            if (other := chat_text(tokenizer, chat)) != text:
                found.append((f"--template_options '{{\"{switch}\": {str(on).lower()}}}'", other))
        tokenizer.template_options = options.template_options
        return found

    if options.thinking and thinks(text) < 0:
        remedies = [option for option, other in switched(True) if thinks(other) >= 0]
        die(f"{name} ends in </think>, so the model would answer without thinking while --thinking is true; take "
            + " or ".join([*remedies[:1], "--thinking false"]))  # fmt: skip
    if not options.thinking:
        remedies = [option for option, other in switched(False) if thinks(other) <= 0]
        if remedies:
            note(f"{name} has a switch for thinking, which is on while --thinking is false: {remedies[0]} turns it off")
        elif thinks(text) > 0:
            note(f"{name} opens <think> although --thinking is false: the whole response is read for the answer")


def turn_end(tokenizer) -> tuple[int | None, str]:
    """(the token with which the template closes an answer, or None; the text that it writes there)."""
    try:
        text = render(tokenizer, [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}])
    except jinja2.TemplateError:
        return None, ""
    closing = text.rpartition(ANSWER)[2].strip()
    found = [(len(token.content), i) for i, token in tokenizer.added_tokens_decoder.items()
             if token.content.strip() and closing.startswith(token.content)]  # fmt: skip
    return max(found, default=(0, None))[1], closing


def end_token(tokenizer) -> int:
    """The token that ends an answer in a chat, or the tokenizer's own where the template closes none."""
    token, _ = turn_end(tokenizer)
    return tokenizer.eos_token_id if token is None else token


def ends_of(tokenizer, generation_config) -> set[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation config."""
    end = generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(end if isinstance(end, list) else [end] if end is not None else [])}


def add_turn_end(model, tokenizer, path: str) -> None:
    """Lets a response end where the template ends a turn, too: adds that token to the model's generation config.

    Without it the rollouts of a chat model whose end token is, say, <|endoftext|> run over <|im_end|> up to the cap.
    """
    ends = ends_of(tokenizer, model.generation_config)
    names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(ends))))
    name = f"--model {path}: the chat template closes an answer"
    token, closing = turn_end(tokenizer)
    if token is None:
        closing = repr(closing[:20]) if closing else "nothing"
        note(f"{name} with {closing}, which is no token: responses end at {names} only")
    elif token not in ends:
        model.generation_config.eos_token_id = [*sorted(ends), token]
        word = tokenizer.convert_ids_to_tokens(token)
        note(f"{name} with {word}, not with {names}: responses end at either")
