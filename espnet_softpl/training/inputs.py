"""Refusals of what a training is given: base models, transcripts, augmentation.

Like those of `training.checks` they are a `UserError`, before work begins.
"""

from __future__ import annotations

import argparse
import functools
import logging
import re
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask

from espnet_softpl.core.errors import UserError, name_some, no_file
from espnet_softpl.core.files import load_weights, read_yaml
from espnet_softpl.data import scan, tables
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.options import LISTS
from espnet_softpl.training.schedule import nested

logger = logging.getLogger(__name__)

# Parts of ESPnet's model whose parameters are by token.
OF_TOKENS = ("ctc.", "decoder.", "joint_network.")
# Options of ours that are a name, and those that are several.
NAMED = ("pl_criterion", "pl_teacher", "pl_cache", "pl_guard")
NAMED += ("pl_decoder", "pl_interctc")
LISTED = ("pl_filter", "pl_shaping", "pl_regularizer")
# ESPnet's that are lists, beside those of `options.LISTS`.
MORE_LISTS = ("init_param", "freeze_param", "best_model_criterion")
# Effects of ESPnet's loader that move frames away from the clean audio's.
MOVING_EFFECTS = ("speed_perturb", "time_stretch", "reverse")
# The share of unknown tokens in transcripts from which they are refused (our choice).
MOST_UNKNOWN = 0.5


@functools.lru_cache(maxsize=8)
def _shapes(file: str, size: int, time: int) -> dict[str, torch.Size]:
    """Return the shapes of a model's parameters; size and time tell files apart."""
    # ESPnet itself would load it with pickle, which runs what a file says.
    state = load_weights(Path(file))
    return {str(name): value.shape for name, value in state.items()}


def _loaded(value: str) -> tuple[Path, dict[str, torch.Size]]:
    """Return the file of an `--init_param`, and what ESPnet takes of it, by its place.

    The value is `file[:source[:target[:excluded]]]`.
    """
    fill = [""] * (2 - value.count(":"))
    name, source, target, *excluded = [*value.split(":"), *fill]
    file = Path(name)
    if not file.is_file():
        raise UserError(f"init_param: {no_file(file)}")
    stat = file.stat()
    try:
        shapes = _shapes(name, stat.st_size, stat.st_mtime_ns)
    except UserError as error:
        raise UserError(f"init_param: {error}") from error
    left_out = tuple(prefix for words in excluded for prefix in words.split(","))
    cut = len(source) + 1 if source else 0
    taken = {
        f"{target}.{key[cut:]}" if target else key[cut:]: shape
        for key, shape in shapes.items()
        if key.startswith(source) and not key.startswith(left_out)
    }
    if not taken:
        raise UserError(
            f"init_param: {value} takes no parameter of {file}; its parts are "
            f"{', '.join(sorted({key.partition('.')[0] for key in shapes}))}"
        )
    return file, taken


def check_types(args: argparse.Namespace) -> None:
    """Refuse values of our options that have another type: YAML says what it likes."""
    for key, value in vars(args).items():
        if key.startswith("pl_") and key.endswith("_conf"):
            by_name = isinstance(value, dict)
            if not (by_name and all(isinstance(name, str) for name in value)):
                raise UserError(f"{key}: must be settings by name, got {value!r}")
        elif key in LISTED and not isinstance(value, str):
            listed = isinstance(value, (list, tuple))
            if not (listed and all(isinstance(name, str) for name in value)):
                raise UserError(f"{key}: must be a list of names, got {value!r}")
        elif key in NAMED and value is not None and not isinstance(value, str):
            raise UserError(f"{key}: must be a name, got {value!r}")


def check_stock_types(args: argparse.Namespace) -> None:
    """Refuse, in any training, values of ESPnet's options that have another type."""
    for key, value in vars(args).items():
        if key.endswith("_conf") and not isinstance(value, dict | None):
            raise UserError(f"{key}: must be settings by name, got {value!r}")
        if key in (*LISTS, *MORE_LISTS) and not isinstance(value, list | tuple | None):
            raise UserError(f"{key}: must be a list, got {value!r}")
        for entry in value or () if key.endswith("_path_and_name_and_type") else ():
            words = entry if isinstance(entry, list | tuple) else ()
            if len(words) != 3 or not all(isinstance(word, str) for word in words):
                raise UserError(f"{key}: must list [FILE, NAME, TYPE], got {entry!r}")
        numbers = value.items() if key in ("optim_conf", "scheduler_conf") else ()
        for name, number in numbers:
            if isinstance(number, str) and re.match(r"[-+.]*\d", number):
                raise UserError(
                    f"{key}: {name} must be a number, got the text {number!r}. YAML "
                    f"takes 1.0e-3 for a number, and neither 1e-3 nor '0.001'"
                )


def check_base_models(args: argparse.Namespace) -> None:
    """Refuse, in any training, an `init_param` that is no model or could run code."""
    for value in args.init_param:
        _loaded(value)


def check_base_tokens(args: argparse.Namespace, tokens: list[str]) -> None:
    """Refuse base models of other tokens, if parameters by token are taken of them.

    By `ignore_init_mismatch` ESPnet leaves these out if their number is another.
    """
    has_head = not args.init_param
    for value in args.init_param:
        file, taken = _loaded(value)
        config = file.parent / "config.yaml"
        conf = read_yaml(config) if config.is_file() else None
        theirs = conf.get("token_list") if isinstance(conf, dict) else None
        differ = isinstance(theirs, list) and theirs != tokens
        if differ and args.ignore_init_mismatch and len(theirs) != len(tokens):
            continue
        if differ and any(name.startswith(OF_TOKENS) for name in taken):
            unlike = [i for i, (a, b) in enumerate(zip(theirs, tokens)) if a != b]
            first = f" from id {unlike[0]} on" if unlike else ""
            raise UserError(
                f"token_list: {len(tokens)} tokens that differ{first} from the "
                f"{len(theirs)} of the base model ({config}). Use its token list, or "
                f"leave out what is by token: --init_param {file}:::"
                f"{','.join(name.removesuffix('.') for name in OF_TOKENS)}"
            )
        has_head |= any(name.startswith("ctc.") for name in taken)
    if not (has_head or args.pl_schedule_conf.get("start_step")):
        logger.warning(
            "init_param: %s: the CTC head, by which the teacher labels, starts again "
            "from random weights. Let labeled data train it first: "
            "pl_schedule_conf.start_step",
            " ".join(args.init_param),
        )


def check_base_fits(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Refuse base models with parameters that the model has not, or of other shapes."""
    if args.ignore_init_mismatch or getattr(args, "use_adapter", False):
        return
    ours = {name: value.shape for name, value in model.state_dict().items()}
    for value in args.init_param:
        _, taken = _loaded(value)
        if wrong := [name for name, shape in taken.items() if ours.get(name) != shape]:
            raise UserError(
                f"init_param: {value}: {len(wrong)} of {len(taken)} parameters do not "
                f"fit the model: {name_some(wrong)}. Use the base model's settings, or "
                f"leave these out by --ignore_init_mismatch true"
            )


def check_labeled(args: argparse.Namespace, part: str) -> None:
    """Refuse the labeled set `train` or `valid` if transcripts or channels cannot work.

    `scan.MAX_HEADERS` utterances are looked at.
    """
    option = f"{part}_data_path_and_name_and_type"
    specs = getattr(args, option)
    entries, kind = scan.speech_scp(specs, option)
    shapes: dict[tuple[int, ...], str] = {}
    for value, header in scan.read_some_headers(entries, kind):
        shapes.setdefault(header.shape, value)
    forced = (args.preprocessor_conf or {}).get("force_single_channel")
    if len(shapes) > 1 and not forced:
        told = [f"{v} has {s[0] if s else 1}" for s, v in sorted(shapes.items())]
        what = "channels" if args.input_size is None else "dimensions"
        raise UserError(
            f"{option}: numbers of {what} differ: {'; '.join(told)}. "
            f"{scan.HOW_TO_FORMAT}"
        )
    for path in (path for path, name, type_ in specs if (name, type_) == ("text",) * 2):
        text = tables.Table(path, empty=True)
        for file in getattr(args, f"{part}_shape_file"):
            check_ids(f"{part}_shape_file", file, text, path)
            check_ids(f"{part}_shape_file", file, entries, option)
        if args.use_preprocessor:
            _check_transcripts(args, path, scan.some_of(text))


def check_ids(option: str, file: str, table: tables.Table, where: str) -> None:
    """Refuse a shape file with utterances that a table does not have."""
    if missing := table.lacks(tables.kept_lengths(file)):
        raise UserError(
            f"{option}: {len(missing)} utterances of {file} are not in {where}: "
            f"{name_some(missing)}"
        )


def _check_transcripts(
    args: argparse.Namespace, path: str, text: dict[str, str]
) -> None:
    """Refuse transcripts that are unknown tokens for the most part; tell of a few."""
    try:
        preprocess = ASRTask.build_preprocess_fn(args, train=False)
        unknown = preprocess.token_id_converter.unk_id
    except (OSError, RuntimeError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"the tokenizer cannot be built: {error}") from error

    def share(change: str) -> float:
        """Return the share of unknown tokens if str.`change` is done before."""
        ids = [
            token
            for key, words in text.items()
            for token in preprocess(key, {"text": getattr(str, change)(words)})["text"]
        ]
        return ids.count(unknown) / max(len(ids), 1)

    if not (found := share("strip")):
        return
    advice = "".join(f"; in {how} case {share(how):.1%}" for how in ("lower", "upper"))
    message = f"{path}: {found:.1%} of tokens are not in the token list{advice}"
    if found > MOST_UNKNOWN:
        raise UserError(f"{message}. A model would learn {args.token_type} unknown")
    logger.warning("%s. Each becomes the unknown token", message)


def check_trainable(args: argparse.Namespace, model: SoftPLModel) -> None:
    """Refuse to freeze all that an unlabeled mini-batch could train."""
    unused = OF_TOKENS[1:] if model.pl.decoder_target(model) == "none" else ()
    frozen = tuple(f"{name}." for name in args.freeze_param)
    if all(
        f"{name}.".startswith((*frozen, *unused))
        for name, value in model.named_parameters()
        if value.requires_grad
    ):
        raise UserError(
            f"freeze_param: {args.freeze_param} leaves nothing that pl_criterion "
            f"{args.pl_criterion!r} could train; free the encoder or the CTC head"
        )


def augmentation(args: argparse.Namespace) -> list[str]:
    """Return the options by which ESPnet's loader augments audio in training."""
    if not args.use_preprocessor:
        return []
    given = [name for name in ("rir_scp", "noise_scp") if getattr(args, name, None)]
    conf = getattr(args, "preprocessor_conf", None) or {}
    effects = conf.get("data_aug_prob") and conf.get("data_aug_effects")
    return [*given, *(["preprocessor_conf.data_aug_effects"] if effects else [])]


def check_augmentation(args: argparse.Namespace) -> None:
    """Refuse augmentation in the loader after which no label fits the student's."""
    conf = getattr(args, "preprocessor_conf", None) or {}
    if conf.get("min_sample_size", 0) > 0:
        raise UserError(
            "preprocessor_conf.min_sample_size: lengthens audio for chunks, which "
            "pseudo-labeling does not use; leave it out"
        )
    if not (options := augmentation(args)):
        return
    if args.input_size is not None:
        raise UserError(
            f"{options[0]}: changes waveforms, and input_size: {args.input_size} "
            f"says that the data are features; leave it out"
        )
    effects = conf["data_aug_effects"] if "data_aug_effects" in options[-1] else []
    words = [part for part in nested(effects) if isinstance(part, str)]
    if moving := [name for name in MOVING_EFFECTS if name in words]:
        raise UserError(
            f"preprocessor_conf.data_aug_effects: {', '.join(moving)} moves the "
            f"student's frames away from the teacher's, which hears clean audio. Leave "
            f"it out; copies at other speeds (ESPnet's speed_perturb_factors) are made "
            f"before training, and may be unlabeled data like any other"
        )
    if effects and len(options) > 1:
        raise UserError(
            "preprocessor_conf.data_aug_effects: ESPnet cannot apply them together "
            "with rir_scp or noise_scp; use one of the two"
        )
    logger.info("The loader augments what the student hears: %s", ", ".join(options))
