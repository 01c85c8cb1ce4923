"""A language model small enough for two CPU cores, made and pre-trained for a task on first use."""

from unirl.llm.tiny.cache import tiny_model
from unirl.llm.tiny.pretrain import Architecture, Pretraining, pretrain
from unirl.llm.tiny.tokenizer import byte_tokenizer, character_tokenizer, make_tokenizer

__all__ = [
    "Architecture",
    "Pretraining",
    "byte_tokenizer",
    "character_tokenizer",
    "make_tokenizer",
    "pretrain",
    "tiny_model",
]
