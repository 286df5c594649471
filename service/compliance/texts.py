"""What the service itself tells people, by language."""

import tomllib
from pathlib import Path

DIRECTORY = Path(__file__).parent / "texts"
FALLBACK = "en"


def load_texts(directory: Path = DIRECTORY) -> dict[str, dict[str, str]]:
    """Texts by language and kind; every language has every text. Raises `ValueError`."""
    texts = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.toml"))}
    if FALLBACK not in texts:
        raise ValueError(f"{directory} lacks {FALLBACK}.toml")
    for language, found in texts.items():
        if set(found) != set(texts[FALLBACK]):
            raise ValueError(f"{directory / language}.toml does not have the texts that {FALLBACK}.toml has")
    return texts
