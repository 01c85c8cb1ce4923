import pytest

from unirl.errors import UserError
from unirl.llm.chat import check_text, encode_prompts, encode_responses, render_prompt
from unirl.llm.tiny.tokenizer import byte_tokenizer

QUESTION = [{"role": "user", "content": "What is 2+2?"}]
DIALOGUE = [{"role": "system", "content": "Be brief."}, *QUESTION]
TEXTS = ["What is 2+2? It is four. Be brief. Thinking about it."] * 4


@pytest.fixture
def tokenizer():
    return byte_tokenizer(TEXTS, 300)


def test_a_dialogue_is_split_without_loss(tokenizer):
    prompt, response = encode_prompts(tokenizer, [DIALOGUE])[0], encode_responses(tokenizer, [DIALOGUE], ["Four."])[0]
    whole = tokenizer.apply_chat_template([*DIALOGUE, {"role": "assistant", "content": "Four."}], tokenize=True)
    assert prompt + response == list(whole["input_ids"])
    assert tokenizer.decode(response) == "Four.<eos>"


def test_strings_and_messages_give_the_same_response(tokenizer):
    messages = [{"role": "assistant", "content": "Four."}]
    assert encode_responses(tokenizer, [QUESTION], ["Four."]) == encode_responses(tokenizer, [QUESTION], [messages])


def test_what_a_template_writes_after_the_end_is_not_part_of_the_response(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("+ eos_token", "+ eos_token + '\n'")
    assert tokenizer.decode(encode_responses(tokenizer, [QUESTION], ["Four."])[0]) == "Four.<eos>"


def test_a_template_that_opens_a_thought_encodes_the_answer_apart(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>'", "<|assistant|><think>'")
    assert tokenizer.decode(encode_prompts(tokenizer, [QUESTION])[0]).endswith("<|assistant|><think>")
    assert tokenizer.decode(encode_responses(tokenizer, [QUESTION], ["Four."])[0]) == "Four.<eos>"


def test_several_turns_end_at_the_last_end(tokenizer):
    turns = [{"role": "assistant", "content": "Four."}, *QUESTION, {"role": "assistant", "content": "Four!"}]
    response = tokenizer.decode(encode_responses(tokenizer, [QUESTION], [turns])[0])
    assert response == "Four.<eos><|user|>What is 2+2?<eos><|assistant|>Four!<eos>"


def test_plain_text_is_encoded_apart(tokenizer):
    prompts, responses = ["What is 2+2?", "Be "], [" Four.", "brief."]
    ids = zip(encode_prompts(tokenizer, prompts), encode_responses(tokenizer, prompts, responses), strict=True)
    assert [tokenizer.decode(p + r) for p, r in ids] == ["What is 2+2? Four.<eos>", "Be brief.<eos>"]


def test_a_conversation_needs_a_template(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        render_prompt(tokenizer, QUESTION)


@pytest.mark.parametrize("wrong", [3, None, [], ["hello"], [{"role": "user"}], {"role": "user", "content": "x"}])
def test_other_things_than_text_are_refused(wrong):
    with pytest.raises(UserError, match="line 7: expected a string or a list"):
        check_text(wrong, "line 7")
