"""Every refusal of options and data, before work begins: a `UserError`.

It names the option, its value and what is allowed.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_softpl import cache, criteria, teacher
from espnet_softpl.core.errors import UserError, name_some, no_file
from espnet_softpl.core.modules import dropouts
from espnet_softpl.data import scan, tables
from espnet_softpl.data.audio import AUDIO_KINDS
from espnet_softpl.filters import Filter
from espnet_softpl.shaping import Shaping
from espnet_softpl.training import inputs
from espnet_softpl.training.config import PLConfig, read_token_list
from espnet_softpl.training.keys import UNLABELED_DATA
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.schedule import Schedule, Scheduled

logger = logging.getLogger(__name__)

LABELED_DATA = (
    "train_data_path_and_name_and_type",
    "valid_data_path_and_name_and_type",
)

STOCK = (  # ESPnet's options: what they must be, and what another value does.
    ("model", "espnet", "cannot learn from pseudo-labels; use 'espnet'"),
    ("encoder_conf.ctc_trim", False, "drops frames as the model decides; use false"),
    ("iterator_type", "sequence", "mixes no batches; pseudo-labeling needs 'sequence'"),
    (
        *("multiple_iterator", False),
        "(asr.sh --num_splits_asr above 1) reads the data in pieces, and "
        "pseudo-labeling takes them whole; use false (--num_splits_asr 1), and for "
        "slow disks unlabeled_shards",
    ),
    ("shuffle_within_batch", False, "takes batches apart; use false"),
)


def check_names(args: argparse.Namespace) -> None:
    """Refuse, in any training, unlabeled data without use and labeled without text."""
    if args.pl_criterion is None and getattr(args, UNLABELED_DATA):
        raise UserError(
            f"{UNLABELED_DATA}: given without pl_criterion, so nothing would be "
            f"learned from it. Allowed: {criteria.REGISTRY.allowed()}"
        )
    if args.collect_stats or args.dry_run:
        return
    for option in LABELED_DATA:
        if not any(name == "text" for _, name, _ in getattr(args, option)):
            raise UserError(
                f"{option}: no 'text' among {getattr(args, option)}. Labeled data "
                f"need transcripts, as in dump/train/text,text,text"
            )


def check_options(args: argparse.Namespace) -> PLConfig:
    """Refuse options that cannot work; return the settings. No data are touched."""
    inputs.check_types(args)
    config = PLConfig.from_args(args)
    _check_parts(config)
    _check_teacher(config)
    for option, allowed, why in STOCK:
        value = _value(args, option) or False
        if value != allowed:
            raise UserError(f"{option}: {value!r} {why}")
    _check_decoder(config)
    _check_layers(config)
    _warn_of_weight(config)
    inputs.check_augmentation(args)
    return config


def _value(args: argparse.Namespace, option: str, default: Any = None) -> Any:
    """Return what an option says, or one of its settings: `encoder_conf.ctc_trim`."""
    name, _, key = option.partition(".")
    value = getattr(args, name)
    return (value or {}).get(key, default) if key else value


def _check_parts(config: PLConfig) -> None:
    """Refuse parts that do not fit together, or the data loader."""
    args, schedule = config.args, config.schedule
    losses = [("pl_criterion", config.criterion)]
    losses += [("pl_regularizer", part) for part in config.regularizers]
    if config.cache is None and args.pl_cache_conf:
        raise UserError(f"pl_cache_conf: {args.pl_cache_conf} without a pl_cache")
    for key, part in losses:
        if next(part.at(0).parameters(), None) is not None:
            raise UserError(f"{key}: a criterion must not have parameters to train")
    weighs_frames = any(part.ever("sets_frame_weight") for part in config.shaping)
    if weighs_frames and not config.criterion.always("weighs_frames"):
        raise UserError(
            f"pl_shaping: {args.pl_shaping} weighs frames, which pl_criterion "
            f"{args.pl_criterion!r} does not use"
        )
    lists = [part.always("makes_list") for part in config.shaping]
    for part in config.shaping[lists.index(True) + 1 :] if any(lists) else ():
        if not part.always("keeps_transcripts"):
            raise UserError(
                f"pl_shaping: {args.pl_shaping}: after 'rescore' or 'votes', which "
                f"list transcripts, only confidences may come; put it behind what "
                f"changes the label"
            )
    _check_specaug(args, losses, weighs_frames)
    if config.needs_labeled and not (schedule.labeled_steps or schedule.start_step):
        raise UserError(
            "pl_schedule_conf: labeled_steps and start_step are 0, but "
            "pl_regularizer, pl_shaping, pl_filter or pl_criterion needs labeled "
            "batches; set one of the two"
        )
    ahead = 2 * args.num_workers  # DataLoader's default for each worker.
    if isinstance(config.cache, cache.LabelChange) and config.cache.lag <= ahead:
        raise UserError(
            f"pl_cache_conf.lag: must be at least {ahead + 1} with num_workers: "
            f"{args.num_workers}, which read that far ahead; got {config.cache.lag}"
        )
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise UserError(
            "ngpu: several GPUs need --multiprocessing_distributed true (one process "
            "per GPU); torch's DataParallel is not supported"
        )


def _check_specaug(
    args: argparse.Namespace,
    losses: Sequence[tuple[str, Scheduled[criteria.PLCriterion]]],
    weighs_frames: bool,
) -> None:
    """Refuse SpecAugment that moves labeled frames, or masks none that are wanted."""
    warps = args.specaug and _value(args, "specaug_conf.apply_time_warp", True)
    by_frame = [key for key, part in losses if part.ever("frame_level")]
    if warps and (weighs_frames or by_frame):
        key = "pl_shaping" if weighs_frames else by_frame[0]
        raise UserError(
            f"specaug_conf.apply_time_warp: must be false with {key} "
            f"{getattr(args, key)!r}: time warping moves the student's frames away "
            f"from the teacher's"
        )
    masks = args.specaug and _value(args, "specaug_conf.apply_time_mask", True)
    for key, part in losses:
        if part.ever("needs_masked") and not masks:
            raise UserError(
                f"specaug_conf.apply_time_mask: must be true, with a specaug, for "
                f"{key} {getattr(args, key)!r}: it teaches the frames that are masked"
            )


def _warn_of_weight(config: PLConfig) -> None:
    """Say so if the unlabeled loss's weight, or the guard's, hardly acts."""
    args, schedule = config.args, config.schedule
    sets_weight = schedule.weight != 1.0 or schedule.ramp_steps > 0
    backs_off = config.guard is not None and config.guard.action == "back_off"
    mixed = schedule.labeled_steps and schedule.update_steps(args.accum_grad) > 1
    if (sets_weight or backs_off) and args.grad_clip > 0 and not mixed:
        logger.warning(
            "%s changes only updates that are not clipped (grad_clip: %g): here an "
            "update is of labeled or of unlabeled mini-batches, and clipping divides "
            "a factor out again. The log tells how many are clipped. "
            "pl_schedule_conf.form: block (labeled_steps: 1 or more) mixes both",
            "pl_schedule_conf.weight" if sets_weight else "The guard's lower_weight",
            args.grad_clip,
        )


def _check_teacher(config: PLConfig) -> None:
    """Refuse a teacher of the best epochs if their files would not be kept."""
    args, topn = config.args, config.teacher
    if not isinstance(topn, teacher.TopNTeacher):
        return
    tracked = [list(criterion) for criterion in args.best_model_criterion]
    if list(topn.criterion) not in tracked:
        raise UserError(
            f"pl_teacher_conf.criterion: {list(topn.criterion)} must be among "
            f"best_model_criterion, {tracked}"
        )
    keep = args.keep_nbest_models
    keep = max(keep) if isinstance(keep, (list, tuple)) else keep
    if keep < topn.keep:
        raise UserError(
            f"keep_nbest_models: {keep} epochs are kept, the teacher averages "
            f"{topn.keep} (pl_teacher_conf.n); keep at least as many"
        )


def _check_decoder(config: PLConfig) -> None:
    """Refuse a model without CTC, and targets for a decoder that it does not have."""
    args, forms = config.args, config.forms
    ctc_weight = _value(args, "model_conf.ctc_weight", 0.5)
    if ctc_weight == 0.0:
        raise UserError(
            "model_conf.ctc_weight: 0 makes a model without CTC, and the teacher "
            "labels with CTC; use a weight in (0, 1]"
        )
    transducer = args.decoder == "transducer"
    allowed = ("auto", "none", "transcript") if transducer else ("auto", "none")
    if (transducer or ctc_weight >= 1.0) and forms.decoder not in allowed:
        what = "a transducer" if transducer else "a model of CTC alone"
        raise UserError(
            f"pl_decoder: {forms.decoder!r} needs an attention decoder, and decoder: "
            f"{args.decoder!r} with model_conf.ctc_weight: {ctc_weight} is {what}. "
            f"Allowed: {', '.join(allowed)}"
        )
    if forms.forced and _value(args, "decoder_conf.sampling_probability"):
        raise UserError(
            f"decoder_conf.sampling_probability: must be 0 with pl_decoder: "
            f"{forms.decoder!r}, because the teacher's decoder is fed the transcript"
        )


def _check_layers(config: PLConfig) -> None:
    """Refuse targets for intermediate layers if no stock loss trains them."""
    args, target = config.args, config.forms.layers
    if target == "none":
        return
    layers = _value(args, "encoder_conf.interctc_layer_idx")
    weight = _value(args, "model_conf.interctc_weight", 0.0)
    if not layers or not weight:
        raise UserError(
            f"pl_interctc: {target!r} needs a model with intermediate CTC, and "
            f"encoder_conf.interctc_layer_idx is {layers}, model_conf.interctc_weight "
            f"{weight}. Allowed: none; or set both"
        )
    if _value(args, "model_conf.aux_ctc"):
        raise UserError(
            "pl_interctc: with model_conf.aux_ctc layers learn other labels. "
            "Allowed: none"
        )
    if target == "own" and args.pl_shaping:
        raise UserError(
            f"pl_interctc: 'own' with pl_shaping: {args.pl_shaping}, which changes "
            f"the last layer's label only. Allowed: none, last; or leave shaping out"
        )


def check_schedule(schedule: Schedule, seed: int, steps: int, filling: int) -> None:
    """Refuse a run of some mini-batches in which nothing unlabeled is learned from.

    The first `filling` unlabeled ones only fill the cache.
    """
    turn = schedule.turn_of(seed, steps, filling)
    if schedule.unlabeled_before(seed, turn) <= filling:
        raise UserError(
            f"pl_schedule_conf.start_step: {schedule.start_step}, and a cache of "
            f"{filling} that must be filled first, leave no unlabeled one among the "
            f"run's {steps} mini-batches (max_epoch times num_iters_per_epoch); lower "
            f"start_step or pl_cache_conf.size, or raise max_epoch"
        )
    # Between these two the weight goes one way only.
    if not any(map(schedule.unlabeled_weight, (schedule.start_step, steps - 1))):
        raise UserError(
            f"pl_schedule_conf.weight: {schedule.weight} is 0 in all of the run's "
            f"{steps} mini-batches, so nothing would be learned from unlabeled data. "
            f"For a control, leave pl_criterion out"
        )


def check_tokens(args: argparse.Namespace) -> None:
    """Refuse tokens without blank at first, or unlike those of the base model."""
    tokens = read_token_list(args)
    blank = _value(args, "model_conf.sym_blank", "<blank>")
    if not tokens or tokens[0] != blank:
        raise UserError(
            f"token_list: the first token must be {blank!r}, got {tokens[:1]}"
        )
    inputs.check_base_tokens(args, tokens)


def check_gpus(args: argparse.Namespace) -> None:
    """Refuse more GPUs than there are."""
    if args.ngpu > (found := torch.cuda.device_count()):
        raise UserError(f"ngpu: {args.ngpu}, but torch finds {found or 'no'} GPUs here")


def check_data(args: argparse.Namespace) -> None:
    """Refuse data that cannot work, and an `output_dir` that takes no file."""
    specs = getattr(args, UNLABELED_DATA)
    if any(name == "text" for _, name, _ in specs):
        raise UserError(
            f"{UNLABELED_DATA}: unlabeled data must not have a 'text'. True "
            f"transcripts, only for statistics, go to unlabeled_oracle_text"
        )
    unlabeled, kind = scan.speech_scp(specs, UNLABELED_DATA, tables.kept_table)
    (train, train_kind), (valid, valid_kind) = (
        scan.speech_scp(getattr(args, option), option) for option in LABELED_DATA
    )
    for part in ("train", "valid"):
        inputs.check_labeled(args, part)
    leaked, known = scan.shared_utterances(unlabeled, valid, train)
    if leaked:
        raise UserError(
            f"{UNLABELED_DATA}: {len(leaked)} utterances are in the validation data "
            f"too: {name_some(leaked)}. Take them out of the unlabeled set"
        )
    if known:
        what = f"{len(known)} unlabeled utterances are in the labeled data too"
        logger.warning("%s: %s", what, name_some(known))
    if kind == "variable_columns_sound":
        raise UserError(
            f"{UNLABELED_DATA}: {kind} stacks several recordings, and unlabeled audio "
            f"must have one channel. {scan.HOW_TO_FORMAT}"
        )
    kinds = {"unlabeled": kind, "labeled": train_kind, "validation": valid_kind}
    entries = {"unlabeled": unlabeled, "labeled": train, "validation": valid}
    scan.check_sample_rates(entries, kinds)
    if kind not in AUDIO_KINDS and not args.unlabeled_shape_file:
        raise UserError(
            f"unlabeled_shape_file: must be given for data of type {kind!r}; "
            f"lengths can be read from the files only for {', '.join(AUDIO_KINDS)}"
        )
    for path in args.unlabeled_shape_file:
        inputs.check_ids("unlabeled_shape_file", path, unlabeled, "the unlabeled data")
    if (text := args.unlabeled_oracle_text) and not Path(text).is_file():
        raise UserError(f"unlabeled_oracle_text: {no_file(text)}")
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir) as file:
            file.write(b"0")
    except OSError as error:
        message = f"output_dir: {args.output_dir} cannot be written to: {error}"
        raise UserError(message) from error


def check_targets_fit(
    model: SoftPLModel, tokens: dict[str, int], samples: dict[str, int], most: float
) -> None:
    """Refuse labeled data whose transcripts are longer than their audio allows.

    Up to a share of `most` such utterances are only named in the log: CTC gives them
    no gradient. The model is on the CPU and takes waveforms; lengths are by utterance.
    """
    with teacher.evaluating(model):
        short, long = 16000, 80000  # They give the frame rate and the edges' cost.
        few, many = frames_of(model, short), frames_of(model, long)
    rate = (many - few) / (long - short)
    bad = {
        key: f"{key}: {count} tokens, about {frames} frames"
        for key, count in tokens.items()
        if count > (frames := int(few + (samples.get(key, short) - short) * rate))
    }
    what = "have more tokens than encoder frames (less subsampling, or cut the audio)"
    scan.check_bad_share(bad, len(tokens), most, what)
    if bad:
        logger.warning("No alignment for %s", name_some(bad.values()))


def check_filters(
    filters: Sequence[tuple[str, Filter]],
    model: torch.nn.Module,
    labeled_tokens_per_sample: float,
    shaping: Sequence[Scheduled[Shaping]] = (),
) -> None:
    """Refuse filters, and shaping, that lack dropout in the model.

    Or filters that lack a speech rate (NaN).
    """
    drops = any(getattr(m, "p", 0) or getattr(m, "dropout", 0) for m in dropouts(model))
    if not drops and any(part.ever("needs_dropout") for part in shaping):
        raise UserError(
            "pl_shaping: 'votes' compares transcripts under dropout, and the model has "
            "none; set encoder_conf.dropout_rate"
        )
    for name, part in filters:
        if part.needs_rate and math.isnan(labeled_tokens_per_sample):
            raise UserError(
                f"pl_filter: {name} compares with the speech rate of the labeled data; "
                f"give train_shape_file speech_shape and text_shape"
            )
        if part.needs_dropout and not drops:
            raise UserError(
                f"pl_filter: {name} compares transcripts under dropout, and the model "
                f"has none; set encoder_conf.dropout_rate"
            )
