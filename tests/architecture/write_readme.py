"""Write the README's table of settings: python -m tests.architecture.write_readme."""

import re

from tests.architecture.test_readme import CHECKOUT, table

path = CHECKOUT / "README.md"
text = path.read_text(encoding="utf-8")
block = f"<!-- configuration -->\n{table()}\n<!-- /configuration -->"
path.write_text(
    re.sub(r"<!-- configuration -->.*?<!-- /configuration -->", lambda _: block, text, flags=re.DOTALL),
    encoding="utf-8",
)
