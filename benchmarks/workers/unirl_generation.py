"""Eight responses to each of eight prompts, by the engine `transformers`, at temperature 1 from the whole vocabulary.

Arguments: calls per chunk, the size of the vocabulary, and the chance that a token ends its response.
"""

import itertools
import sys
from importlib.metadata import version

import generation_model
import torch
from pacer import Pacer

from unirl.llm.rollout import Sampling
from unirl.llm.rollout.transformers_engine import TransformersEngine
from unirl.llm.variants import variants_of

WARM_UP = 2


def main() -> None:
    calls, vocabulary, end = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pacer = Pacer(1)
    engine = TransformersEngine()
    engine.open(variants_of(generation_model.model(vocabulary, end)), None, None)
    sampling = Sampling(generation_model.NEW_TOKENS, (generation_model.EOS,), generation_model.PAD)
    generator = torch.Generator().manual_seed(0)

    def sample(call: int) -> int:
        prompts = generation_model.prompts(vocabulary, call)
        responses = engine.generate(prompts, generation_model.SAMPLES, sampling, generator)
        return int(responses.mask.sum())

    following = itertools.count()
    for _ in range(WARM_UP):
        sample(next(following))
    pacer.ready(unirl=version("unirl"), torch=version("torch"), transformers=version("transformers"))
    while True:
        pacer.tick(sum(sample(next(following)) for _ in range(calls)))


if __name__ == "__main__":
    main()
