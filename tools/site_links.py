"""Hook of mkdocs.yml: takes the recipe's pages along, and keeps the links to them.

In the repository pages lie in docs/ and in egs2/, and link to each other by relative
paths. In the site docs/ is the top, and egs2/ lies in it. Code is not in it: what links
to a test or a benchmark is its bare name there.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CODE = r"\[([^\]]*)\]\((?:\.\./)+(?:benchmarks|espnet_softpl|tests|tools)/[^)]*\)"
TAKEN = ("egs2/librispeech_softpl/*.md", "egs2/librispeech_softpl/conf/tuning/*.yaml")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside of docs/, under its own path."""
    for pattern in TAKEN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shorten the way from docs/ to egs2/ by a step, and that back by `docs/`."""
    markdown = re.sub(CODE, r"\1", markdown)
    markdown = re.sub(r"(\]\((?:\.\./)*)\.\./(?=egs2/)", r"\1", markdown)
    return re.sub(r"(\]\((?:\.\./)+)docs/", r"\1", markdown)
