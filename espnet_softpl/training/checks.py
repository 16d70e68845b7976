"""Data options, ESPnet's and ours, that are refused before the model is built."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_softpl import cache, criteria, teacher
from espnet_softpl.core import errors
from espnet_softpl.core.errors import UserError
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.data import scan, tables
from espnet_softpl.data.audio import (
    AUDIO_KINDS,
)
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.monitors import guard
from espnet_softpl.training.build import (
    build_cache,
    build_criterion,
    build_filters,
    build_forms,
    build_regularizers,
    build_schedule,
    build_shaping,
    build_teacher,
    conf_of,
    read_token_list,
)
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.options import UNLABELED_DATA


def check_seed_tokens(init_param: Sequence[str], token_list: Sequence[str]) -> None:
    """Refuse a seed model that was trained with another token list.

    Args:
        init_param: ESPnet's `--init_param` values, `file[:source:target:excluded]`.
        token_list: The tokens of this run.

    Raises:
        UserError: A seed's file is missing, or the `config.yaml` beside it has other
            tokens.
    """
    for param in init_param:
        file = Path(param.split(":")[0])
        if not file.exists():
            raise UserError(f"init_param: {file} does not exist")
        config = file.parent / "config.yaml"
        if not config.exists():
            continue
        with open(config, encoding="utf-8") as stream:
            theirs = (yaml.safe_load(stream) or {}).get("token_list")
        if not isinstance(theirs, list) or theirs == list(token_list):
            continue
        pairs = enumerate(zip(theirs, token_list))
        where = next((f" from id {i} on" for i, (a, b) in pairs if a != b), "")
        raise UserError(
            f"token_list: {len(token_list)} tokens that differ{where} from the "
            f"{len(theirs)} of the seed model ({config}). Use the seed's token list."
        )


logger = logging.getLogger(__name__)


def check_targets_fit(
    model: SoftPLModel, tokens: dict[str, int], samples: dict[str, int], most: float
) -> None:
    """Refuse labeled data whose transcripts are longer than their audio allows.

    Args:
        model: The model, on the CPU; it takes waveforms.
        tokens: Tokens by utterance id.
        samples: Samples by utterance id.
        most: Largest share of such utterances, in [0, 1].

    Raises:
        UserError: More than that share of the utterances have more tokens than
            frames. Fewer are named in the log; CTC gives them no gradient.
    """
    with teacher.evaluating(model):
        # Two probes give the frame rate and what the edges cost.
        short, long = 16000, 80000
        few, many = frames_of(model, short), frames_of(model, long)
    rate = (many - few) / (long - short)
    bad = {}
    for key, count in tokens.items():
        frames = int(few + (samples.get(key, short) - short) * rate)
        if count > frames:
            bad[key] = f"{key}: {count} tokens, about {frames} frames"
    what = "have more tokens than encoder frames (less subsampling, or cut the audio)"
    scan.check_bad_share(bad, len(tokens), most, what)
    if bad:
        logger.warning("No alignment for %s", errors.name_some(bad.values()))


def check_forms(forms: LabelForms, args: argparse.Namespace) -> None:
    """Refuse targets for parts that the model does not have.

    Args:
        forms: What is to be trained.
        args: The parsed options.

    Raises:
        ValueError: With the key, the value and what is legal.
    """
    model_conf = args.model_conf or {}
    transducer = args.decoder == "transducer"
    hybrid = not transducer and model_conf.get("ctc_weight", 0.5) < 1.0
    if not hybrid and forms.decoder not in ("auto", "none"):
        legal = "auto, none, transcript" if transducer else "auto, none"
        if forms.decoder not in legal.split(", "):
            what = "a transducer" if transducer else "a model of CTC alone"
            raise ValueError(
                f"pl_decoder: {forms.decoder!r} needs an attention decoder, and "
                f"decoder: {args.decoder!r} with model_conf.ctc_weight: "
                f"{model_conf.get('ctc_weight', 0.5)} is {what}. Legal: {legal}"
            )
    if forms.forced and (args.decoder_conf or {}).get("sampling_probability"):
        raise ValueError(
            f"decoder_conf.sampling_probability: must be 0 with pl_decoder: "
            f"{forms.decoder!r}, for the teacher's decoder is to be fed the transcript"
        )
    if forms.layers != "none":
        _check_layers(forms, args)


def _check_layers(forms: LabelForms, args: argparse.Namespace) -> None:
    """Refuse targets for intermediate layers where no stock loss trains them."""
    model_conf = args.model_conf or {}
    layers = (args.encoder_conf or {}).get("interctc_layer_idx")
    weight = model_conf.get("interctc_weight", 0.0)
    if not layers or not weight:
        raise ValueError(
            f"pl_interctc: {forms.layers!r} needs a model with intermediate CTC, and "
            f"encoder_conf.interctc_layer_idx is {layers}, model_conf.interctc_weight "
            f"{weight}. Legal: none; or set both"
        )
    if model_conf.get("aux_ctc"):
        raise ValueError(
            f"pl_interctc: {forms.layers!r} with model_conf.aux_ctc: those layers "
            f"learn other labels, which a teacher's transcripts are not. Legal: none"
        )
    if forms.layers == "own" and args.pl_shaping:
        raise ValueError(
            f"pl_interctc: 'own' with pl_shaping: {args.pl_shaping}, which changes "
            f"the last layer's label only. Legal: none, last; or leave shaping out"
        )


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before any data are touched.

    Args:
        args: The parsed options, with `pl_criterion` set.

    Raises:
        ValueError: With the key, the value and what is legal.
    """
    criterion = build_criterion(args).at(0)
    _check_teacher(args)
    build_schedule(args)
    guard.build(args.pl_guard, **conf_of("guard", args))
    if args.pl_cache == "none" and args.pl_cache_conf:
        raise UserError(f"pl_cache_conf: {args.pl_cache_conf} without a pl_cache")
    settings = build_cache(args)
    ahead = 2 * args.num_workers  # DataLoader's default for each worker.
    if isinstance(settings, cache.LabelChange) and settings.lag <= ahead:
        raise ValueError(
            f"pl_cache_conf.lag: must be at least {ahead + 1} with num_workers: "
            f"{args.num_workers}, got {settings.lag}: the loader reads that far ahead"
        )
    if next(criterion.parameters(), None) is not None:
        raise ValueError("pl_criterion: a criterion must not have parameters to train")
    frame_level = _check_label(args, criterion)
    if not 0.0 <= args.pl_max_bad_share <= 1.0:
        raise ValueError(f"pl_max_bad_share: {args.pl_max_bad_share} is not in [0, 1]")
    if args.pl_samples < 0:
        raise ValueError(f"pl_samples: must be at least 0, got {args.pl_samples}")
    _check_model(args, frame_level)
    check_forms(build_forms(args), args)
    _check_loop_options(args)


def _check_teacher(args: argparse.Namespace) -> None:
    """Refuse a teacher of the best epochs whose files would not be kept."""
    built = build_teacher(args)
    if not isinstance(built, teacher.TopNTeacher):
        return
    if list(built.criterion) not in [list(c) for c in args.best_model_criterion]:
        raise ValueError(
            f"pl_teacher_conf.criterion: {list(built.criterion)} must be among "
            f"best_model_criterion, {[list(c) for c in args.best_model_criterion]}"
        )
    kept = args.keep_nbest_models
    kept = max(kept) if isinstance(kept, (list, tuple)) else kept
    if kept < built.keep:
        raise ValueError(
            f"keep_nbest_models: {kept} epochs are kept, the teacher averages "
            f"{built.keep} (pl_teacher_conf.n); keep as many at least"
        )


def _check_model(args: argparse.Namespace, frame_level: str | None) -> None:
    """Refuse a model that cannot be taught so."""
    if args.model != "espnet":
        raise ValueError(
            f"model: {args.model!r} cannot learn from pseudo-labels; use 'espnet'"
        )
    if (args.model_conf or {}).get("ctc_weight", 0.5) == 0.0:
        raise ValueError(
            "model_conf.ctc_weight: 0 makes a model without CTC, and the teacher "
            "labels with CTC; use a weight in (0, 1]"
        )
    specaug = dict(args.specaug_conf or {}) if args.specaug is not None else {}
    if args.specaug is not None and frame_level:
        if specaug.get("apply_time_warp", True):
            raise ValueError(
                f"specaug_conf.apply_time_warp: must be false with {frame_level}: what "
                f"the student learns, it learns frame by frame of the clean audio, and "
                f"time warping moves the student's frames away from the teacher's"
            )
    if (args.encoder_conf or {}).get("ctc_trim"):
        raise ValueError(
            "encoder_conf.ctc_trim: drops frames as the model sees fit, "
            "so teacher and student would disagree; set it to false"
        )


def _check_label(args: argparse.Namespace, criterion: PLCriterion) -> str | None:
    """Refuse parts that do not fit; name what makes the target one per frame."""
    shapers = [shaper.at(0) for shaper in build_shaping(args)]
    wishes = [part.at(0).needs_prior for part in build_regularizers(args)]
    wishes += [criterion.needs_prior, *(shaper.needs_prior for shaper in shapers)]
    wishes += [part.needs_labeled for _, part in build_filters(args)]
    schedule = build_schedule(args)
    if any(wishes) and schedule.labeled_steps == 0 and schedule.start_step == 0:
        raise ValueError(
            "pl_schedule_conf: labeled_steps and start_step are 0, but what "
            "pl_regularizer, pl_shaping, pl_filter or pl_criterion asks for is counted "
            "on labeled batches; set one of the two"
        )
    if any(shaper.sets_frame_weight for shaper in shapers):
        if not criterion.weighs_frames:
            raise ValueError(
                f"pl_shaping: {args.pl_shaping} weighs frames, which pl_criterion "
                f"{args.pl_criterion!r} does not use"
            )
        return f"pl_shaping {args.pl_shaping}"
    return f"pl_criterion {args.pl_criterion!r}" if criterion.frame_level else None


def _check_loop_options(args: argparse.Namespace) -> None:
    if args.iterator_type != "sequence" or args.multiple_iterator:
        raise ValueError(
            f"iterator_type: pseudo-labeling needs 'sequence' without "
            f"multiple_iterator, got {args.iterator_type!r}"
        )
    if args.shuffle_within_batch:
        raise ValueError(
            "shuffle_within_batch: must be false, for pseudo-labeling takes ESPnet's "
            "mini-batches whole"
        )
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise ValueError(
            "ngpu: several GPUs need --multiprocessing_distributed true (one process "
            "per GPU); torch's DataParallel is not supported"
        )


def check_names(args: argparse.Namespace) -> None:
    """Refuse labeled data without transcripts, and unlabeled data without a criterion.

    Args:
        args: The parsed options, of any training.

    Raises:
        ValueError: With the option that lacks something.
    """
    if args.pl_criterion is None and getattr(args, UNLABELED_DATA):
        raise ValueError(
            f"{UNLABELED_DATA}: given without pl_criterion, so nothing would be "
            f"learned from it. Legal: {', '.join(criteria.available())}"
        )
    if args.collect_stats or args.dry_run:
        return
    for option in (
        "train_data_path_and_name_and_type",
        "valid_data_path_and_name_and_type",
    ):
        if not any(name == "text" for _, name, _ in getattr(args, option)):
            raise ValueError(
                f"{option}: no 'text' among {getattr(args, option)}. Labeled data "
                f"need transcripts, as in dump/train/text,text,text"
            )


def check_data(args: argparse.Namespace) -> None:
    """Refuse data that cannot work, before the model is built.

    Args:
        args: The parsed options, with `pl_criterion` set.

    Raises:
        ValueError: With the file and what is wrong with it.
    """
    specs = getattr(args, UNLABELED_DATA)
    if any(name == "text" for _, name, _ in specs):
        raise ValueError(
            f"{UNLABELED_DATA}: unlabeled data take no 'text'. True transcripts, for "
            f"statistics only, go to unlabeled_oracle_text"
        )
    unlabeled, kind = scan.speech_scp(specs, UNLABELED_DATA)
    train, train_kind = scan.speech_scp(
        args.train_data_path_and_name_and_type, "train_data_path_and_name_and_type"
    )
    valid, _ = scan.speech_scp(
        args.valid_data_path_and_name_and_type, "valid_data_path_and_name_and_type"
    )
    leaked = scan.shared_utterances(unlabeled, valid)
    if leaked:
        raise ValueError(
            f"{UNLABELED_DATA}: {len(leaked)} utterances are in the validation data "
            f"too: {errors.name_some(leaked)}. Take them out of the unlabeled set"
        )
    known = scan.shared_utterances(unlabeled, train)
    if known:
        logger.warning(
            "%d unlabeled utterances are in the labeled data too: %s",
            len(known),
            errors.name_some(known),
        )
    if kind == "variable_columns_sound":
        raise ValueError(
            f"{UNLABELED_DATA}: {kind} stacks several recordings, and unlabeled audio "
            f"must have one channel. {scan.HOW_TO_FORMAT}"
        )
    scan.check_sample_rates(
        {"unlabeled": unlabeled, "labeled": train},
        {"unlabeled": kind, "labeled": train_kind},
    )
    if kind not in AUDIO_KINDS and not args.unlabeled_shape_file:
        raise ValueError(
            f"unlabeled_shape_file: must be given for data of type {kind!r}; only of "
            f"{', '.join(AUDIO_KINDS)} can the lengths be read from the files"
        )
    for path in args.unlabeled_shape_file:
        missing = set(tables.read_lengths(path)) - set(unlabeled)
        if missing:
            raise ValueError(
                f"unlabeled_shape_file: {len(missing)} utterances of {path} are not "
                f"in the unlabeled data: {errors.name_some(missing)}"
            )
    if args.unlabeled_oracle_text and not Path(args.unlabeled_oracle_text).is_file():
        raise ValueError(
            f"unlabeled_oracle_text: {args.unlabeled_oracle_text} does not exist"
        )
    check_writable(args.output_dir)


def check_writable(output_dir: str | Path) -> None:
    """Refuse a directory that nothing can be written to.

    Args:
        output_dir: The experiment directory; it is made.

    Raises:
        ValueError: It cannot be made, or takes no file.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(
            f"output_dir: {output_dir} cannot be written to: {error}"
        ) from error


def check_tokens(args: argparse.Namespace) -> None:
    """Refuse a token list that does not fit CTC or the seed model.

    Args:
        args: The parsed options.

    Raises:
        ValueError: The blank is not token 0, or the seed has other tokens.
    """
    tokens = read_token_list(args)
    blank = (args.model_conf or {}).get("sym_blank", "<blank>")
    if not tokens or tokens[0] != blank:
        raise ValueError(
            f"token_list: the first token must be {blank!r}, as ESPnet's "
            f"CTC has it; got {tokens[:1]}"
        )
    check_seed_tokens(args.init_param, tokens)
