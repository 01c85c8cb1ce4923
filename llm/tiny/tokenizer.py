"""Tokenizers of a few symbols: one per character for small alphabets, byte pairs for free text."""

from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unirl.errors import UserError
from unirl.llm.chat import plain
from unirl.llm.tasks.problem import ProblemSet

PAD, EOS, BOS, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
TURNS = tuple(f"<|{role}|>" for role in ("system", "user", "assistant"))
SPECIAL = (PAD, EOS, BOS, UNKNOWN, *TURNS)

# Every turn is its role, its words and the end token; a prompt ends with the assistant's role.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_TEXTS = 4096  # problems whose text a byte-pair vocabulary is trained on


def make_tokenizer(problems: ProblemSet, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer for a problem set: characters where it names an alphabet, else byte pairs trained on its text."""
    if problems.facts.alphabet is not None:
        return character_tokenizer(problems.facts.alphabet)
    drawn = problems.draw(np.random.default_rng(0), _TEXTS)
    return byte_tokenizer((plain(part) for p in drawn for part in (p.prompt, p.answer)), vocabulary)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token per character of `alphabet`, after the special tokens; any other character is `<unk>`."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(alphabet)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer)


def byte_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding of at most `vocabulary` tokens trained on `texts`; spells any text exactly.

    Raises `UserError` where `vocabulary` has no room for the 256 bytes and the special tokens.
    """
    if vocabulary < 256 + len(SPECIAL):
        raise UserError(f"model.vocabulary is {vocabulary}; it must be at least {256 + len(SPECIAL)}")
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNKNOWN,
        additional_special_tokens=list(TURNS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
