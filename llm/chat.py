"""From text and messages to token ids: chat templates, and the exact border between prompt and response.

A prompt is a string or a conversation, a list of `{"role": ..., "content": ...}`; a response is a string or the
assistant's messages. These are the plain and the conversational form of TRL's dataset columns (`prompt`, `completion`,
`chosen`, `rejected`), read here without conversion.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from unirl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = Mapping[str, str]
Text: TypeAlias = str | Sequence[Message]

ROLES = ("system", "user", "assistant", "tool")


def is_conversation(text: Any) -> bool:
    """Whether `text` is a list of messages, each with `role` and `content`."""
    return (
        isinstance(text, Sequence)
        and not isinstance(text, str)
        and len(text) > 0
        and all(isinstance(message, Mapping) and "role" in message and "content" in message for message in text)
    )


def check_text(text: Any, where: str) -> Text:
    """`text` itself if it is a string or a conversation; otherwise a `UserError` that names `where` it stood."""
    if isinstance(text, str):
        return text
    if not is_conversation(text):
        raise UserError(f"{where}: expected a string or a list of {{role, content}} messages, found {_brief(text)}")
    return [{"role": str(message["role"]), "content": str(message["content"])} for message in text]


def plain(text: Text) -> str:
    """The words alone: a string as it is, a conversation's contents joined by newlines."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


def render_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> str:
    """The text a model sees: a string as it is, a conversation in the chat template up to the assistant's turn."""
    if isinstance(prompt, str):
        return prompt
    return _template(tokenizer, prompt, add_generation_prompt=True)


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Text]) -> list[list[int]]:
    """Token ids of each prompt.

    Plain strings get the special tokens that the tokenizer puts in front (a BOS where the model wants one), without an
    EOS at the end; a chat template writes its own. Raises `UserError` for a conversation without a template.
    """
    strings = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
    chats = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    ids: list[list[int]] = [[] for _ in prompts]
    for i, row in zip(strings, _encode(tokenizer, [str(prompts[i]) for i in strings], special=True), strict=True):
        ids[i] = row[:-1] if len(row) > 1 and row[-1] == tokenizer.eos_token_id else row
    rendered = [render_prompt(tokenizer, prompts[i]) for i in chats]
    for i, row in zip(chats, _encode(tokenizer, rendered, special=False), strict=True):
        ids[i] = row
    return ids


def encode_responses(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Text], responses: Sequence[Text]
) -> list[list[int]]:
    """Token ids of each response to its prompt, the end-of-sequence token included: what a sampler would have produced.

    After a plain prompt the response is encoded apart, so `prompt ids + response ids` is exactly what the model reads
    when it generates. In a conversation the response is cut out of the whole: `prompt ids + response ids` are the ids
    of the whole dialogue up to its last end-of-sequence token, because a sampler stops there and never sees what the
    template writes after it. Where a template renders the prompt differently once an answer follows (templates that
    drop or insert thoughts), or the tokenizer merges across the border, the response is encoded apart instead.
    """
    eos = _eos(tokenizer)
    split = [_split(tokenizer, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    whole = _encode(tokenizer, [before + after for before, after in split], special=False)
    befores = _encode(tokenizer, [before for before, _ in split], special=False)
    alone = _encode(tokenizer, [after for _, after in split], special=False)
    ids = [
        row[len(start) :] if row[: len(start)] == start else after
        for row, start, after in zip(whole, befores, alone, strict=True)
    ]
    return [
        [*row, eos] if isinstance(prompt, str) else _until_last(eos, row)
        for prompt, row in zip(prompts, ids, strict=True)
    ]


def _split(tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text) -> tuple[str, str]:
    """The text to encode before the response, and the response's; nothing before it where it is encoded apart."""
    if isinstance(prompt, str):
        return "", plain(response)
    answer = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    before = _template(tokenizer, prompt, add_generation_prompt=True)
    whole = _template(tokenizer, [*prompt, *answer], add_generation_prompt=False)
    return (before, whole[len(before) :]) if whole.startswith(before) else ("", plain(response))


def _template(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            "the model's tokenizer has no chat template, so it cannot read a conversation; "
            "use an instruction-tuned model or plain-text prompts"
        )
    rendered = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return str(rendered)


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str], special: bool) -> list[list[int]]:
    if not texts:
        return []
    return [list(row) for row in tokenizer(texts, add_special_tokens=special)["input_ids"]]


def _until_last(eos: int, ids: list[int]) -> list[int]:
    if eos not in ids:
        return [*ids, eos]
    return ids[: len(ids) - ids[::-1].index(eos)]


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("the model's tokenizer has no end-of-sequence token; responses could never end")
    return int(tokenizer.eos_token_id)


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
