"""Engines as a domain uses them: by name, brought up to date once per policy, and what they refuse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_stub import EOS, PAD, ToyTask, network, saved, tokenizer
from torch import Tensor
from torch.testing import assert_close

import unirl.llm.domain
from unirl import names
from unirl.domain import Opponent
from unirl.errors import UserError
from unirl.llm import LanguageDomain
from unirl.llm.rollout import Engine, MixtureEngine, Responses, Sampling
from unirl.llm.rollout.sampler import Sampler
from unirl.llm.rollout.transformers_engine import TransformersEngine
from unirl.llm.variants import variants_of

SAMPLING = Sampling(8, (EOS,), PAD)


class Recorder:
    """An engine that answers with stop tokens and remembers what it was given; it cannot mix."""

    def __init__(self) -> None:
        self.version = -1
        self.given: list[tuple[int, dict[str, Tensor]]] = []

    def open(self, variants: Any, tokenizer: Any, path: str | None) -> None:
        self.path = path

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        self.version = version
        self.given.append((version, dict(state)))

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, generator: torch.Generator
    ) -> Responses:
        tokens = torch.full((len(prompts) * n, 1), EOS)
        whole = torch.ones_like(tokens, dtype=torch.bool)
        return Responses(tokens, -whole.double(), whole, whole[:, 0], torch.full_like(tokens, self.version))

    def close(self) -> None:
        pass


@pytest.fixture
def make_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(unirl.llm.domain, "make_task", lambda config, tokenizer, seed: ToyTask(seed))
    path = saved(tmp_path)
    return lambda **options: LanguageDomain({"name": "toy"}, {"path": path, "dtype": "float64"}, **options)


def opened(seed: int = 0, **options: Any) -> TransformersEngine:
    engine = TransformersEngine(**options)
    engine.open(variants_of(network(seed, dtype=torch.float64)), tokenizer(), None)
    return engine


def generated(engine: TransformersEngine, prompts: Any, n: int = 2, seed: int = 0, **options: Any) -> Responses:
    sampling = Sampling(**{"max_new_tokens": 8, "stop": (EOS,), "pad": PAD, **options})
    return engine.generate(prompts, n, sampling, torch.Generator().manual_seed(seed))


def change(domain: LanguageDomain) -> None:
    with torch.no_grad():
        domain.parameters("policy")[-1].mul_(1.01)


def with_recorder(domain: LanguageDomain) -> Recorder:
    recorder = Recorder()
    domain._sampler.engine = recorder
    return recorder


def test_engines_are_parts_with_their_documentation() -> None:
    assert "the network that is being trained" in names("engine")["transformers"]
    engine: Engine = TransformersEngine()
    assert isinstance(engine, MixtureEngine) and not isinstance(Recorder(), MixtureEngine)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("transfomers", "unknown engine 'transfomers' .did you mean transformers"),
        ({"name": "transformers", "row": 3}, "did you mean rows"),
        ({"rows": 3}, "domain.engine has no name"),
        ({"name": "transformers", "rows": 0}, "domain.engine.rows is 0; it must be at least 1"),
        ({"name": "transformers", "rows": "all"}, "rows is 'all'; it must be a whole number"),
        (3, "domain.engine is 3; it must be a name or"),
    ],
)
def test_an_unknown_engine_or_option_is_named(make_domain: Any, engine: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_domain(engine=engine)


def test_an_engine_is_chosen_by_name_or_with_options(make_domain: Any) -> None:
    assert make_domain(engine="transformers")._sampler.engine.rows == 512
    assert make_domain(engine={"name": "transformers", "rows": 3})._sampler.engine.rows == 3


def test_the_engine_gets_every_policy_once_and_rows_say_which_one_drew_them(make_domain: Any) -> None:
    domain = make_domain()
    recorder = with_recorder(domain)
    first = domain.rollout(4)
    domain.rollout(4), domain.evaluate(2)
    assert [version for version, _ in recorder.given] == [0] and (first.version[first.mask] == 0).all()
    assert recorder.given[0][1].keys() == domain.policy.state_dict().keys()
    change(domain)
    change(domain)
    domain.evaluate(2)
    batch = domain.rollout(4)
    assert [version for version, _ in recorder.given] == [0, 1] and (batch.version[batch.mask] == 1).all()


@pytest.mark.parametrize("sampled_before_saving", [False, True])
def test_a_restored_policy_keeps_its_number(make_domain: Any, sampled_before_saving: bool) -> None:
    domain, restored = make_domain(), make_domain()
    domain.rollout(4)
    change(domain)
    if sampled_before_saving:
        domain.rollout(4)
    restored.load_state_dict(domain.state_dict())
    recorder = with_recorder(restored)
    assert int(domain.rollout(4).version.max()) == int(restored.rollout(4).version.max()) == 1
    assert [version for version, _ in recorder.given] == [1]


def test_only_some_engines_can_sample_from_a_mixture(make_domain: Any) -> None:
    domain = make_domain()
    domain.copy_policy("ref")
    with_recorder(domain)
    with pytest.raises(UserError, match=r"mixture of two policies, which only domain.engine=transformers can"):
        domain.rollout(4, group_size=4, opponent=Opponent("ref", mixture=0.5, per_group=1))


def test_a_sampler_opens_its_engine_with_the_models_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unirl.llm.rollout.sampler.make", lambda kind, name: Recorder())
    assert Sampler("recorder", variants_of(network()), tokenizer(), "folder").engine.path == "folder"


def test_a_prompt_that_leaves_no_room_in_the_context_is_refused_before_anything_is_read() -> None:
    engine = opened()  # whose context has 128 places
    message = (
        "a prompt of 121 tokens and a response of up to 8 do not fit into the 128 tokens that the model's context has"
    )
    with pytest.raises(UserError, match=message):
        generated(engine, [[5] * 120, [5] * 121])
    assert generated(engine, [[5] * 120], stop=()).tokens.shape == (2, 8)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="a prompt has no tokens"):
        generated(opened(), [[5], []])


def test_identical_prompts_are_read_once_wherever_they_stand() -> None:
    engine = opened()
    read: list[tuple[int, ...]] = []
    with engine._variants.using("<policy>") as model:  # type: ignore[union-attr]
        model.model.register_forward_hook(lambda _, __, out: read.append(tuple(out.last_hidden_state.shape)))
    prompts = [[5, 6], [7, 8, 9], [5, 6], [5, 6, 2], [7, 8, 9]]
    together = generated(engine, prompts, n=1, greedy=True)
    assert read[0] == (3, 3, 32)  # three different prompts, the longest of three tokens
    for row, prompt in enumerate(prompts):
        alone = generated(engine, [prompt], n=1, greedy=True)
        count = int(alone.mask.sum())
        assert torch.equal(together.tokens[row, :count], alone.tokens[0]) and int(together.mask[row].sum()) == count
        assert_close(together.logp[row, :count], alone.logp[0])


def test_at_most_so_many_rows_are_drawn_at_once() -> None:
    read: list[int] = []
    for rows in (512, 4, 1):
        engine = opened(rows=rows)
        with engine._variants.using("<policy>") as model:  # type: ignore[union-attr]
            model.model.register_forward_hook(lambda _, __, out: read.append(len(out.last_hidden_state)))
        found = generated(engine, [[5], [6], [7], [8]], n=2, stop=(), max_new_tokens=2)
        assert found.tokens.shape == (8, 2)
    assert read == [4, 8, *[2, 4] * 2, *[1, 2] * 4]  # prompts, then rows, piece after piece; n rows at least


def test_pieces_hold_prompts_of_similar_length_and_rows_come_back_in_the_order_of_the_prompts() -> None:
    prompts = [[5] * 9, [6], [7] * 8, [8, 6], [6]]
    whole, engine = generated(opened(), prompts, greedy=True), opened(rows=4)
    read: list[tuple[int, ...]] = []
    with engine._variants.using("<policy>") as model:  # type: ignore[union-attr]
        model.model.register_forward_hook(lambda _, __, out: read.append(tuple(out.last_hidden_state.shape[:2])))
    pieces = generated(engine, prompts, greedy=True)
    assert torch.equal(pieces.tokens, whole.tokens) and torch.equal(pieces.mask, whole.mask)
    assert_close(pieces.logp, whole.logp)
    generated(engine, prompts, greedy=True, max_new_tokens=1)
    assert read[-3:] == [(1, 1), (2, 8), (1, 9)]  # the two equal ones once, then two by two in order of length


def test_responses_can_be_trained_on_and_the_generator_moves_on() -> None:
    engine, generator = opened(), torch.Generator().manual_seed(0)
    first, second = (engine.generate([[5], [6, 7]], 4, SAMPLING, generator) for _ in range(2))
    assert not any(getattr(first, name).is_inference() for name in ("tokens", "logp", "mask", "ended", "version"))
    assert first.tokens.shape != second.tokens.shape or not torch.equal(first.tokens, second.tokens)


def test_a_prompt_that_ends_with_a_prefix_continues_it() -> None:
    engine = opened()
    whole = generated(engine, [[5, 6, 7]], n=1, greedy=True, stop=())
    rest = generated(engine, [[5, 6, 7, *whole.tokens[0, :3].tolist()]], n=1, greedy=True, stop=())
    assert torch.equal(rest.tokens[0, :5], whole.tokens[0, 3:])
    assert_close(rest.logp[0, :5], whole.logp[0, 3:])


def test_likeliest_tokens_and_entropies_are_reported_where_they_are_asked_for() -> None:
    engine = opened()
    plain, found = (
        generated(engine, [[5], [6, 7]], n=8, **options) for options in ({}, {"top_logprobs": 3, "entropy": True})
    )
    assert plain.top_tokens is None and plain.top_logp is None and plain.entropy is None
    assert torch.equal(plain.tokens, found.tokens) and torch.equal(plain.logp, found.logp)
    assert found.top_logp.shape == found.top_tokens.shape == (*found.tokens.shape, 3)
    assert (found.top_logp.diff(dim=-1) <= 0).all() and (found.entropy[found.mask] > 0).all()
    among = found.top_tokens == found.tokens[..., None]
    assert among[found.mask].any() and not (found.mask[..., None] & among).all()
    drawn = found.logp[..., None].expand_as(among)
    assert torch.equal(found.top_logp[among & found.mask[..., None]], drawn[among & found.mask[..., None]])


def test_joined_responses_are_padded_to_the_longest() -> None:
    engine = opened()
    parts = [
        generated(engine, [[5]], n=2, stop=(), max_new_tokens=count, top_logprobs=2, entropy=True) for count in (2, 5)
    ]
    joined = Responses.cat(parts)
    assert joined.tokens.shape == (4, 5) and joined.top_logp.shape == (4, 5, 2) and joined.entropy.shape == (4, 5)
    assert joined.mask.sum(1).tolist() == [2, 2, 5, 5] and not joined.ended.any()
    assert torch.equal(joined.top_tokens[:2, :2], parts[0].top_tokens) and (joined.top_tokens[:2, 2:] == 0).all()
    assert torch.equal(joined.rows(torch.tensor([3, 0])).tokens[0], parts[1].tokens[1])
