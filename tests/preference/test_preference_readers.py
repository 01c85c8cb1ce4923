import gzip
import json
import os
from pathlib import Path

import pytest

from unirl import make
from unirl.errors import UserError

DATA = Path(os.environ.get("UNIRL_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
HH = DATA / "text" / "hh_harmless_base_test.jsonl.gz"

ASK = [{"role": "user", "content": "2 + 2?"}]
GOOD = [{"role": "assistant", "content": "4"}]
BAD = [{"role": "assistant", "content": "5"}]


def written(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def read(name, path, **hyper):
    return list(make("pair_reader", name, path=path, **hyper)())


@pytest.mark.parametrize("file", ["pairs.jsonl", "pairs.json", "pairs.jsonl.gz"])
def test_jsonl_reads_plain_columns(tmp_path, file):
    (record,) = read("jsonl", written(tmp_path / file, [{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}]))
    assert (record.prompt, record.chosen, record.rejected) == ("2 + 2 =", " 4", " 5")


def test_jsonl_reads_a_json_array(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2, indent=2))
    assert [record.chosen for record in read("jsonl", str(path))] == ["b", "b"]


def test_jsonl_reads_conversations_and_renamed_columns(tmp_path):
    path = written(tmp_path / "pairs.jsonl", [{"question": ASK, "good": GOOD, "bad": BAD}])
    (record,) = read("jsonl", path, prompt="question", chosen="good", rejected="bad")
    assert (record.prompt, record.chosen, record.rejected) == (ASK, GOOD, BAD)


def test_jsonl_without_a_prompt_column_takes_the_shared_messages(tmp_path):
    path = written(tmp_path / "pairs.jsonl", [{"chosen": ASK + GOOD, "rejected": ASK + BAD}])
    (record,) = read("jsonl", path, prompt=None)
    assert (record.prompt, record.chosen, record.rejected) == (ASK, GOOD, BAD)


def test_jsonl_without_a_prompt_column_takes_the_shared_words_and_splits_none(tmp_path):
    # both share "The sky is bl": the cut goes back to before the white space
    path = written(tmp_path / "pairs.jsonl", [{"chosen": "The sky is blue", "rejected": "The sky is black"}])
    (record,) = read("jsonl", path, prompt=None)
    assert (record.prompt, record.chosen, record.rejected) == ("The sky is", " blue", " black")


def test_an_identical_conversation_keeps_its_last_message_as_the_answer(tmp_path):
    path = written(tmp_path / "pairs.jsonl", [{"chosen": ASK + GOOD, "rejected": ASK + GOOD}])
    (record,) = read("jsonl", path, prompt=None)
    assert (record.prompt, record.chosen) == (ASK, GOOD)


@pytest.mark.parametrize(
    ("second_line", "says"),
    [
        ("{", "line 3: not JSON"),
        ('{"prompt": "a", "chosen": "b"}', "line 3: no column 'rejected'"),
        ('{"chosen": "b", "rejected": "c"}', "line 3: no column 'prompt'.*prompt=null"),
        ('{"prompt": "a", "chosen": "b", "rejected": 3}', "line 3: 'rejected' must be a string or a list"),
        (
            '{"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}',
            "line 3: 'chosen' must be a string or a list",
        ),
        (
            '{"prompt": "a", "chosen": "b", "rejected": [{"role": "user", "content": "c"}]}',
            "line 3: .* all be messages",
        ),
        ("[1, 2]", "line 3: no column 'chosen' .it has a list"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, second_line, says):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n' + second_line + "\n")
    with pytest.raises(UserError, match=f"pairs.jsonl {says}"):
        read("jsonl", str(path))


def test_a_missing_or_broken_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read("jsonl", str(tmp_path / "absent.jsonl"))
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(UserError, match="cannot be read as gzipped UTF-8"):
        read("jsonl", str(broken))


def test_hh_splits_at_the_last_assistant_turn(tmp_path):
    talk = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2 + 2?\n\nAssistant:"
    (record,) = read("hh", written(tmp_path / "hh.jsonl.gz", [{"chosen": talk + " 4", "rejected": talk + " 5"}]))
    assert [turn["role"] for turn in record.prompt] == ["user", "assistant", "user"]
    assert record.prompt[-1]["content"] == "2 + 2?"
    assert (record.chosen, record.rejected) == (GOOD, BAD)


def test_hh_joins_consecutive_turns_of_one_speaker(tmp_path):
    ask = "\n\nHuman: 2 + 2?"
    rows = [{"chosen": ask + "\n\nAssistant: let me see\n\nAssistant: 4", "rejected": ask + "\n\nAssistant: 5"}]
    (record,) = read("hh", written(tmp_path / "hh.jsonl", rows))
    assert record.prompt == ASK
    assert record.chosen == [{"role": "assistant", "content": "let me see\n\n4"}]


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [
        ("no turns", "\n\nHuman: a\n\nAssistant: b", "line 1: 'chosen' does not begin with a turn"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant: b", "line 1: the two dialogues must differ"),
        ("\n\nHuman: a", "\n\nHuman: b", "line 1: the two dialogues must differ in their last assistant turn"),
    ],
)
def test_hh_refuses_other_text(tmp_path, chosen, rejected, says):
    with pytest.raises(UserError, match=says):
        read("hh", written(tmp_path / "hh.jsonl", [{"chosen": chosen, "rejected": rejected}]))


@pytest.mark.skipif(not HH.exists(), reason="real dialogues are not here; set UNIRL_TEST_DATA to a folder with text/")
def test_hh_reads_every_real_dialogue():
    # counted once with a separate script: 2,312 lines, none identical, 4 chosen answers empty
    records = read("hh", str(HH))
    assert len(records) == 2312
    assert all(record.prompt[0]["role"] == "user" and record.prompt[-1]["role"] == "user" for record in records)
    assert all(a["role"] != b["role"] for r in records for a, b in zip(r.prompt, r.prompt[1:], strict=False))
    assert all(len(r.chosen) == len(r.rejected) == 1 and r.chosen != r.rejected for r in records)
    assert sum(not record.chosen[0]["content"] for record in records) == 4


def test_hub_reads_a_dataset_that_datasets_can_load(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    written(tmp_path / "train.jsonl", [{"prompt": ASK, "chosen": GOOD, "rejected": BAD}])
    (record,) = make("pair_reader", "hub", id=str(tmp_path), split="train")()
    assert (record.prompt, record.chosen, record.rejected) == (ASK, GOOD, BAD)
    with pytest.raises(UserError, match="split 'test'"):
        list(make("pair_reader", "hub", id=str(tmp_path), split="test")())
