"""Put the generated pages into the navigation."""

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Replace the nav entries `Methods` and `Parts` by all pages of their folders, the index first."""
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: dict[str, Any]) -> dict[str, Any]:
    ((title, page),) = entry.items()
    if not isinstance(page, str) or not (DOCS / page).is_dir():
        return entry
    pages = sorted(path.stem for path in (DOCS / page).glob("*.md") if path.stem != "index")
    return {title: [{"Overview": f"{page}/index.md"}, *({name: f"{page}/{name}.md"} for name in pages)]}
