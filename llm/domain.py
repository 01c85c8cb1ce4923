"""The language domain: prompts, a causal language model that answers them, and a verifier that scores the answers."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.domain import DETACHED, Dataset, DomainInfo, Opponent, Requirements, ValueSpec
from unirl.errors import UserError
from unirl.llm.datasets import demonstrations, preference_settings, recorded_pairs, sampled_pairs
from unirl.llm.microbatch import microbatches, row_pieces, trimmed
from unirl.llm.models import context_length, load, model_settings, plain, stop_tokens, value_head
from unirl.llm.rollout import Responses, Sampling
from unirl.llm.rollout.sampler import Sampler
from unirl.llm.rows import judge, padded_prompts, response_batch
from unirl.llm.scoring import Scorer
from unirl.llm.states import packable
from unirl.llm.tasks import make_task
from unirl.llm.truncation import Truncation
from unirl.llm.variants import CRITIC, POLICY, variants_of
from unirl.memory.pairs import PairDataset

EVALUATION_SEED = 1_000_003
DEFAULT_ENGINE = MappingProxyType({"name": "transformers"})
HELD_OUT_PAIRS = 256  # at most so many are scored, where a task is evaluated on pairs


class LanguageDomain:
    """Single-turn language tasks. A decision is a token; a row is the response to one prompt.

    Columns of a batch are response tokens only, exactly as sampled, the end-of-sequence token included; the prompt is
    in `context`. The verifier's score is the `reward` of the last token. A response that ended by itself is
    `terminated` there; one that ran into the task's `max_new_tokens` is `truncated`, and `next_value` is then the value
    of the state after its last token. Log-probabilities are those at `temperature` and under the truncation
    by `top_k`, `top_p` and `min_p` (`unirl.llm.truncation`), when sampling and when scoring.

    `task`, `model`: the sections of the configuration. `engine`: what samples responses, a name among `unirl parts
    engine` or `{name, options}`. `token_budget`: tokens per forward pass, a prompt
    that several rows share once; with padding where the model cannot do without (`unirl.llm.states.packable`).
    `demonstrations`: how many of the task's are loaded.
    `evaluate_sampled`: whether evaluation draws its responses, as training does, or takes the likeliest tokens.
    `target_entropy`: default floor for an automatic entropy coefficient, in nats per token (0.2 is the target of
    Skywork-OR1, He et al. 2025). Every draw comes from generators seeded by `seed`.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        model: Mapping[str, Any],
        seed: int = 0,
        device: str = "cpu",
        engine: str | Mapping[str, Any] = DEFAULT_ENGINE,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        token_budget: int = 16384,
        demonstrations: int = 2048,
        target_entropy: float = 0.2,
        evaluate_sampled: bool = True,
    ) -> None:
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise UserError(
                f"domain.temperature is {temperature!r}; it must be a number above 0 (evaluate_sampled=false is greedy)"
            )
        self.truncation = Truncation(top_k, top_p, min_p)
        self._evaluate_sampled = evaluate_sampled
        self.settings = model_settings(model)
        self.seed, self.device, self.temperature = seed, device, temperature
        self.token_budget, self.demonstrations = token_budget, demonstrations
        self.policy, self.tokenizer = load(task, model, self.settings, seed, device)
        self.task = make_task(task, self.tokenizer, seed)
        self.info = DomainInfo(
            name="llm",
            task=str(task.get("name", type(self.task).__name__)),
            independent_decisions=False,
            target_entropy=target_entropy,
            sample_unit="tokens",
            groups_share_work=True,
        )
        self.value_head: nn.Linear | None = None
        self._variants = variants_of(self.policy)
        self._packed = packable(plain(self.policy))
        self._sampler = Sampler(engine, self._variants, self.tokenizer, self.settings.path)
        self._stop = tuple(stop_tokens(plain(self.policy), self.tokenizer))
        self._generator = torch.Generator(device).manual_seed(seed)
        self._groups = 0
        self._held_out_pairs: Batch | None = None
        self._preferences = preference_settings(task.get("preferences"))
        self._top_choices = 0

    def build(self, requirements: Requirements) -> None:
        """Make the value head, the critic's trunk and the anchors; raises `UserError` for what is for control only."""
        if requirements.q is not None:
            raise UserError("the method needs a `q` critic, which the language domain does not offer (control only)")
        if requirements.given:
            raise UserError(f"anchor '{next(iter(requirements.given))}' comes from a file, which only control can read")
        if requirements.policy not in (None, "categorical"):
            raise UserError(f"the method needs a {requirements.policy} policy; a language model's is categorical")
        self._top_choices = requirements.top_choices
        if requirements.value is not None:
            self._add_critic(requirements.value)
        for anchor in sorted(requirements.anchors):
            self.copy_policy(anchor)
        if not self.task.has_reward:
            self._prepare_pair_evaluation()

    def parameters(self, role: str) -> list[nn.Parameter]:
        """`policy`: the network, or its adapter. `value`: the head and, with a separate critic, its trunk or adapter.

        With a shared critic the trunk belongs to `policy`: a value loss moves it only where both losses are stepped
        together (`update.together`).
        """
        if role == "policy":
            return [parameter for parameter in self._variants.parameters(POLICY) if parameter.requires_grad]
        if role == "value" and self.value_head is not None:
            trunk = self._variants.parameters(CRITIC) if self._variants.has_critic else []
            return [*trunk, *self.value_head.parameters()]
        return []

    def rollout(
        self,
        n: int,
        *,
        group_size: int = 1,
        unit: str = "episode",
        opponent: Opponent | None = None,
        uniform: bool = False,
    ) -> Batch:
        """`n` responses, in groups of `group_size` to the same training prompt.

        With an `opponent`, the last `per_group` responses of each group are drawn from the geometric mixture of policy
        and anchor, and `source` is 1 for them, 0 for the others.
        """
        if uniform:
            raise UserError("uniformly random responses teach nothing; a replay source is for control")
        if unit != "episode":
            raise UserError(f"source.unit is '{unit}'; responses are sampled whole, with unit=episode")
        if group_size < 1 or n % group_size:
            raise UserError(f"rows ({n}) must be a multiple of group_size ({group_size})")
        if opponent is not None and not 0 < opponent.per_group <= group_size:
            raise UserError(f"opponent.per_group is {opponent.per_group}; it must be 1 to group_size ({group_size})")
        prompts = self.task.prompts(n // group_size)
        responses, prompt, prompt_mask = self._respond(prompts, group_size, self._generator, opponent=opponent)
        repeated = [prompt for prompt in prompts for _ in range(group_size)]
        rows = torch.arange(n, device=self.device)
        group = self._groups + rows // group_size
        self._groups += n // group_size
        source = None if opponent is None else (rows % group_size >= group_size - opponent.per_group).long()
        return response_batch(
            prompt.repeat_interleave(group_size, 0),
            prompt_mask.repeat_interleave(group_size, 0),
            responses.tokens,
            responses.mask,
            responses.ended,
            judge(self.task, self.tokenizer, repeated, responses.tokens, responses.mask),
            behavior_logp=responses.logp,
            version=responses.version,
            prompt_id=torch.tensor([p.prompt_id for p in repeated], device=self.device),
            group=group,
            source=source,
        )

    def score(self, batch: Batch, need: Collection[str]) -> Batch:
        """Add what `need` names.

        `logp`, `entropy`, `top_logp`, `anchor_kl.<name>` (exact, over the vocabulary), `value_pred` and, where the
        critic asks for a spread, `value_pred_std` are differentiable; `old_logp`, `anchor_logp.<name>`, `top_token`,
        `anchor_top_logp.<name>`, `value` and `next_value` are not, and asking for these alone runs the batch in pieces
        of `token_budget`. `top_logp` of a token that truncation rules out is minus infinity.
        Raises `UserError` for fields that only control offers.
        """
        scorer = Scorer(
            self._variants,
            self.value_head,
            self.temperature,
            self._packed,
            truncation=self.truncation,
            top_choices=self._top_choices,
        )
        scorer.check(need)
        if not need:
            return batch
        if all(name.partition(".")[0] in DETACHED for name in need):
            return batch.replace(**self._score_in_pieces(scorer, batch, need))
        return batch.replace(**scorer(batch, need))

    def dataset(self, options: Mapping[str, Any]) -> Dataset:
        """The task's demonstrations, scored by its verifier; text takes no presentation options."""
        if options:
            raise UserError(
                f"source.data ({', '.join(options)}) is for control; demonstrations in text take no options"
            )
        context = context_length(plain(self.policy))
        return demonstrations(self.task, self.tokenizer, self.demonstrations, self.seed, self.device, context)

    def preferences(self) -> Dataset:
        """The task's recorded pairs; without any, pairs of responses by the current policy (`task.preferences`)."""
        context = context_length(plain(self.policy))
        recorded = recorded_pairs(self.task, self.tokenizer, self.device, context=context)
        if recorded is None:
            return sampled_pairs(self.rollout, self._preferences, self.seed)
        return PairDataset(recorded, recorded.pairs, recorded.pair_label, self.seed)

    def copy_policy(self, anchor: str, decay: float = 0.0) -> None:
        """Move an anchor: decay * anchor + (1 - decay) * policy."""
        self._variants.copy_policy(anchor, decay)

    def update_targets(self) -> None:
        """Nothing to move: only `q` critics have targets."""

    def microbatches(self, batch: Batch) -> list[Batch]:
        """Pieces of at most `token_budget` tokens; see `unirl.llm.microbatch.microbatches`."""
        return microbatches(batch, self.token_budget, self._packed)

    def evaluate(self, episodes: int, *, sampled: bool | None = None) -> dict[str, float]:
        """Mean score, length and components of one response to each of the first `episodes` held-out prompts.

        Responses are drawn as in training, with the same seed every time (`sampled`), or greedy; None takes
        `evaluate_sampled`. Training's generators are not touched.
        A task without a verifier is scored on its held-out pairs: how often the log-probability of the chosen response
        has risen more since the start than that of the rejected one (`score`, 1/2 at the start), and by how much
        (`margin`).
        """
        if self._held_out_pairs is not None:
            return self._evaluate_pairs(episodes)
        prompts = self.task.held_out(episodes)
        generator = torch.Generator(self.device).manual_seed(EVALUATION_SEED)
        greedy = not (self._evaluate_sampled if sampled is None else sampled)
        responses, _, _ = self._respond(prompts, 1, generator, greedy=greedy)
        rewards = judge(self.task, self.tokenizer, prompts, responses.tokens, responses.mask)
        found = {name: float(values.mean()) for name, values in rewards.items()}
        found["length"] = float(responses.mask.sum(1).float().mean())
        found["truncated"] = float((~responses.ended).float().mean())
        return found

    def state_dict(self) -> dict[str, Any]:
        """Weights that training changes (with LoRA: adapters only), anchors, generators and the task's state."""
        return {
            **self._variants.state_dict(),
            "value_head": None if self.value_head is None else self.value_head.state_dict(),
            "generator": self._generator.get_state(),
            "groups": self._groups,
            **self._sampler.state_dict(),
            "task": self.task.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._variants.load_state_dict(state)
        if state["value_head"] is not None:
            if self.value_head is None:
                self.value_head = value_head(plain(self.policy), spread=len(state["value_head"]["bias"]) == 2)
            self.value_head.load_state_dict(state["value_head"])
        self._generator.set_state(state["generator"].cpu())
        self._groups = int(state["groups"])
        self._sampler.load_state_dict(state)
        self.task.load_state_dict(state["task"])

    def _add_critic(self, spec: ValueSpec) -> None:
        self.value_head = value_head(plain(self.policy), spread=spec.std)
        if self.settings.critic == "shared":
            return
        if self.settings.lora is not None and self.settings.gradient_checkpointing:
            raise UserError(  # layers would be recomputed under whichever adapter was switched on last
                "model.critic=separate with LoRA does not go with model.gradient_checkpointing; set model.critic=shared"
            )
        self._variants.add_critic()

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take over the policy's weights of another run; anchors become copies of it.

        Raises `UserError` where the run's model has another shape.
        """
        try:
            self._variants.load_state_dict({"policy": state["policy"], "critic": None, "anchors": {}})
        except (RuntimeError, KeyError) as error:
            raise UserError("init: the run's model has another shape; give it the same model, LoRA included") from error
        for anchor in self._variants.anchors:
            self.copy_policy(anchor)

    def _prepare_pair_evaluation(self) -> None:
        """Remember the starting policy's log-probabilities of held-out pairs."""
        context = context_length(plain(self.policy))
        held_out = recorded_pairs(self.task, self.tokenizer, self.device, held_out=True, context=context)
        if held_out is None:
            raise UserError(
                "the task cannot be evaluated: it has neither a verifier, nor task.reward, nor held-out pairs"
            )
        self._held_out_pairs = self.score(held_out[: 2 * HELD_OUT_PAIRS], {"old_logp"})

    def _evaluate_pairs(self, episodes: int) -> dict[str, float]:
        held_out = self._held_out_pairs
        assert held_out is not None
        now = self.score(held_out, {"old_logp"}).old_logp  # all of them: cut into the same pieces as at the start
        risen = (now - held_out.old_logp).sum(1).reshape(-1, 2)[:episodes]
        margin = risen[:, 0] - risen[:, 1]
        share = float(((margin.sign() + 1) / 2).mean())
        return {"score": share, "win_rate": share, "margin": float(margin.mean())}

    def _respond(
        self,
        prompts: Sequence[Any],
        group_size: int,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        opponent: Opponent | None = None,
    ) -> tuple[Responses, Tensor, Tensor]:
        """Responses to every prompt, `group_size` each, with the padded prompts [G, P] and their mask."""
        ids, mask = padded_prompts(prompts, self.tokenizer.pad_token_id)
        sampling = Sampling(
            max_new_tokens=self.task.max_new_tokens,
            stop=self._stop,
            pad=self.tokenizer.pad_token_id,
            temperature=self.temperature,
            truncation=self.truncation,
            greedy=greedy,
        )
        tokens = [prompt.token_ids for prompt in prompts]
        responses = self._sampler(tokens, group_size, sampling, generator, opponent)
        return responses, ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def _score_in_pieces(self, scorer: Scorer, batch: Batch, need: Collection[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for rows in row_pieces(batch, self.token_budget, self._packed):
            for name, value in scorer(trimmed(batch[rows]), need).items():
                if isinstance(value, Tensor):
                    _put(made, name, value, rows, batch.mask)
                else:
                    for key, leaf in value.items():
                        _put(made.setdefault(name, {}), key, leaf, rows, batch.mask)
        return made


def _put(into: dict[str, Any], name: str, value: Tensor, rows: Tensor, mask: Tensor) -> None:
    """Write the rows of a trimmed piece into a field of the whole batch."""
    if name not in into:
        into[name] = value.new_zeros(*mask.shape, *value.shape[2:])
    into[name][rows, : value.shape[1]] = value
