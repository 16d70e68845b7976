"""A model card: what an exported model is, how it was trained, and its error rates."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import espnet_softpl
from espnet_softpl.commands.experiment import OURS
from espnet_softpl.commands.report.decodings import read_references
from espnet_softpl.commands.report.runs import Run, read_runs
from espnet_softpl.core.errors import UserError, refusing

NAME = "README.md"  # Where the Hugging Face Hub looks for it.
TAGS = ["espnet", "audio", "automatic-speech-recognition", "pseudo-labeling"]
# What tells of one machine or one run, and nothing of the method.
LEFT_OUT = ("unlabeled_data", "unlabeled_shape", "unlabeled_oracle", "pl_samples")


def write_card(args: argparse.Namespace, model: Path) -> None:
    """Write the card of an exported model.

    Args:
        args: The options of `bin.export`.
        model: The file to write.

    Raises:
        UserError: The experiment is an archive, which has no results, or there is a
            mistake in `--ref_text`.
    """
    experiment = Path(args.asr_exp)
    if not experiment.is_dir():
        raise UserError(f"--card: {experiment} has no results; name the experiment")
    (run,) = read_runs([experiment], read_references(args.ref_text))
    header = {"license": args.license, "language": args.language, "tags": TAGS}
    head = yaml.safe_dump({**header, "library_name": "espnet"}, sort_keys=False)
    text = "\n".join(["---", head + "---", "", *_lines(run, args.which)])
    model.write_text(text + "\n", encoding="utf-8")


def _lines(run: Run, which: str) -> Iterator[str]:
    config, what = run.config, "a supervised training"
    if run.pseudo_labels:
        what = f"continuous pseudo-labeling (`{config.get('pl_criterion')}`)"
    yield f"# {run.name}\n"
    yield f"The {which} of {what}, an ESPnet model for speech recognition.\n"
    yield "```python\nfrom espnet2.bin.asr_inference import Speech2Text\n"
    yield 'model = Speech2Text.from_pretrained("FILE or TAG", ctc_weight=1.0)\n```\n'
    yield "## Error rates\n"
    if run.scores:
        yield "In percent, with half of the 95 % interval (bootstrap over utterances)."
        if which != "student":
            yield f"Of what the experiment decoded, not of this {which}."
        yield "\n| set | CER | WER |\n| --- | --- | --- |"
        for name, score in run.scores.items():
            yield f"| {name} | {score['char']} | {score['word']} |"
    else:
        yield "None: nothing was decoded."
    dev = run.history.get("valid/cer_ctc", [])
    if dev:
        yield f"\nDev CER while training, best epoch: {min(v for _, v in dev):.1%}."
    if base := run.levels.get("valid/cer_ctc"):
        yield f"The base model's was {base:.1%}."
    yield "\n## Training\n"
    yield (
        f"{run.epochs} epochs, {run.batches} mini-batches, {run.updates} updates, "
        f"{run.duration}; espnet_softpl {espnet_softpl.__version__}."
    )
    own = {
        key: _without_folders(value)
        for key, value in config.items()
        if key.startswith(OURS) and not key.startswith(LEFT_OUT) and value
    }
    if own:
        yield "A stock configuration, and\n"
        yield f"```yaml\n{yaml.safe_dump(own, sort_keys=False)}```\n"
        yield "With that file as `CONFIG`, the base model and the same data:\n"
        yield "```sh\nsoftpl train --config CONFIG --init_param BASE.pth ...\n```"


def _without_folders(value: Any) -> Any:
    """Shorten paths in settings, such as that of a language model, to their names."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    return Path(value).name if isinstance(value, str) else value


def push(archive: Path, repository: str) -> str:
    """Upload a packed model to the Hugging Face Hub, unpacked; return its address.

    The token is that of `huggingface-cli login` or of the variable HF_TOKEN.

    Args:
        archive: A model, with paths that are relative to it.
        repository: `USER/MODEL`; made if it is new.

    Raises:
        UserError: huggingface_hub is missing, or the Hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("--push-to-hub: pip install huggingface_hub") from error
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(archive, folder)
        with refusing(f"--push-to-hub {repository}"):
            api = HfApi()
            url = api.create_repo(repository, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
    return str(url)
