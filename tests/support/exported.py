"""Models exported, and loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from espnet2.main_funcs.pack_funcs import unpack

from espnet_softpl.bin import export
from tests.support.espnet_runs import (
    load,
)


def write_stats(path: Path) -> Path:
    """Write statistics as `--collect_stats` does, of features around 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, count=10, sum=np.full(20, 10.0), sum_square=np.full(20, 30.0))
    return path


def exported(run: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    """Export to an archive, and load the model from it."""
    export.main(["--asr_exp", str(run), "--out", str(out), *more])
    return load(Path(unpack(out, out.with_suffix(""))["asr_model_file"]))


# espnet_model_zoo itself needs pandas and huggingface_hub to import. Of a local file
# its ModelDownloader does this:
ZOO = """
import hashlib
from pathlib import Path
from espnet2.main_funcs.pack_funcs import unpack

class ModelDownloader:
    def download_and_unpack(self, name):
        path = Path(name).absolute()
        cache = Path(__file__).parent / hashlib.md5(str(path).encode()).hexdigest()
        return unpack(path, cache)
"""
