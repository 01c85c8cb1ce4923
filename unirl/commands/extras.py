"""Which optional packages are installed, and the command that installs a missing group of them."""

import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.requirements import Requirement

DISTRIBUTION = "unirl"
BUNDLES = ("all",)  # extras made of other extras
PURPOSES = {
    "core": "everything",
    "control": "domain=control: MuJoCo, gymnasium, D4RL and Minari data, videos",
    "llm": "domain=llm: language models, LoRA, datasets, checking of mathematics",
    "vllm": "generation by vLLM",
    "gpu": "8-bit optimizers and Liger kernels, on a GPU",
    "peers": "tests of parity with, and benchmarks against, Stable-Baselines3 and TRL",
    "dev": "tests, linters, documentation",
}


@dataclass(frozen=True)
class Package:
    """A requirement: `installed` is its version or None, `fits` whether that satisfies the requirement."""

    name: str
    required: str
    installed: str | None
    fits: bool


def extras() -> dict[str, list[Package]]:
    """Extra -> its packages; the key `core` holds what is always required."""
    found: dict[str, list[Package]] = {}
    for text in distribution(DISTRIBUTION).requires or []:
        requirement = Requirement(text)
        extra = re.search(r"""extra == ['"]([^'"]+)['"]""", text)
        name = extra.group(1) if extra else "core"
        if name in BUNDLES or (requirement.marker and not requirement.marker.evaluate({"extra": name})):
            continue
        found.setdefault(name, []).append(_package(requirement))
    return found


def pip_command(extra: str) -> str:
    """The command that installs an extra (`core`: what is always needed), into an editable checkout if that runs."""
    folder = _checkout()
    if extra == "core":
        return f"pip install -e '{folder}'" if folder else f"pip install --upgrade {DISTRIBUTION}"
    return f"pip install -e '{folder}[{extra}]'" if folder else f"pip install '{DISTRIBUTION}[{extra}]'"


def _checkout() -> str | None:
    """The folder of an editable installation."""
    installed = distribution(DISTRIBUTION)
    beside = Path(str(installed.locate_file("pyproject.toml")))  # started inside the checkout itself
    if beside.is_file():
        return str(beside.parent.resolve())
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return unquote(urlparse(origin["url"]).path) if origin.get("dir_info", {}).get("editable") else None


def hint_for(module: str) -> str | None:
    """What to type when `import module` fails; None if no extra brings it."""
    wanted = module.partition(".")[0].replace("_", "-").lower()
    for extra, packages in extras().items():
        if extra != "core" and any(package.name.replace("_", "-").lower() == wanted for package in packages):
            return pip_command(extra)
    return "pip install 'gymnasium[mujoco]'" if wanted == "mujoco" else None


def _package(requirement: Requirement) -> Package:
    required = str(requirement.specifier)
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Package(requirement.name, required, None, False)
    return Package(requirement.name, required, installed, requirement.specifier.contains(installed, prereleases=True))
