"""Eight responses to each of eight prompts, by `transformers.generate`, at temperature 1 from the whole vocabulary.

Arguments: calls per chunk, the size of the vocabulary, and the chance that a token ends its response.
"""

import itertools
import sys
from importlib.metadata import version

import generation_model
import torch
from pacer import Pacer

WARM_UP = 2


def main() -> None:
    calls, vocabulary, end = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pacer = Pacer(1)
    model = generation_model.model(vocabulary, end)
    torch.manual_seed(0)

    def sample(call: int) -> int:
        ids = torch.tensor(generation_model.prompts(vocabulary, call))
        rows = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=generation_model.SAMPLES,
            max_new_tokens=generation_model.NEW_TOKENS,
        )
        return int((rows[:, ids.shape[1] :] != generation_model.PAD).sum())

    following = itertools.count()
    for _ in range(WARM_UP):
        sample(next(following))
    pacer.ready(torch=version("torch"), transformers=version("transformers"))
    while True:
        pacer.tick(sum(sample(next(following)) for _ in range(calls)))


if __name__ == "__main__":
    main()
