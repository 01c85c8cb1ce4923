"""Starts vLLM's server for `domain.engine.name=vllm_server`: `python -m unirl.llm.rollout.serve MODEL [options]`.

`MODEL` is a folder or hub id: the one that is trained. The options are those of `vllm serve`; what is set here can be
set otherwise. Whoever reaches the server can replace its weights: it listens on this machine alone unless `--host` says
otherwise.
"""

import os
import sys
from collections.abc import Sequence

DEFAULTS = (
    ("--host", "127.0.0.1"),
    ("--logprobs-mode", "processed_logprobs"),  # of what the token was drawn from
    ("--max-logprobs", "-1"),
    ("--generation-config", "vllm"),  # no defaults of sampling from the model's folder
    ("--kv-cache-memory-bytes", str(2**30)),
    ("--max-model-len", "auto"),
    ("--no-enable-chunked-prefill",),  # with it, a seed makes vLLM fail on a processor
    ("--disable-uvicorn-access-log",),
    ("--worker-extension-cls", "unirl.llm.rollout.weight_transfer.Extension"),
    ("--weight-transfer-config", '{"backend": "file"}'),
)
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # without it there are no weight updates
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m unirl.llm.rollout.serve MODEL [--port 8000] [options of `vllm serve`]")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    given = [word for option in DEFAULTS for word in option]
    sys.argv = ["unirl.llm.rollout.serve", "--model", arguments[0], *given, *arguments[1:]]
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()
    return 0


if __name__ == "__main__":  # vLLM's processes import this file again
    sys.exit(main(sys.argv[1:]))
