#!/usr/bin/env python3
"""Train a sentencepiece model on transcripts and write ESPnet's token list."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import sentencepiece
from datadir import RecipeError, atomic_write, read_table, run_main


def train(text: Path, tokens: Path, model: Path, size: int) -> int:
    """Train the model and write it and its token list.

    Args:
        text: Transcripts by utterance.
        tokens: Token list to write: `<blank>`, `<unk>`, the pieces, `<sos/eos>`.
        model: Sentencepiece model to write.
        size: Vocabulary size that sentencepiece is asked for.

    Returns:
        Length of the token list.

    Raises:
        RecipeError: The transcripts do not allow this vocabulary size.
    """
    sentences = [words for words in read_table(text).values() if words]
    model.parent.mkdir(parents=True, exist_ok=True)
    temporary = model.with_name("bpe.tmp.model")
    try:
        with temporary.open("wb") as stream:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=stream,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                # By default sentencepiece rewrites text (NFKC), so that hypotheses
                # could not equal references in scripts where that changes letters.
                normalization_rule_name="identity",
                minloglevel=2,
            )
    except (RuntimeError, OSError) as error:
        temporary.unlink(missing_ok=True)
        reason = str(error).strip().rsplit("] ", 1)[-1]
        raise RecipeError(f"sentencepiece with --nbpe {size}: {reason}") from error
    processor = sentencepiece.SentencePieceProcessor(model_file=str(temporary))
    pieces = [processor.id_to_piece(index) for index in range(len(processor))]
    listed = ["<blank>", "<unk>", *pieces[3:], "<sos/eos>"]
    os.replace(temporary, model)
    with atomic_write(tokens) as stream:
        stream.write("".join(f"{piece}\n" for piece in listed))
    return len(listed)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--nbpe", type=int, required=True)
    args = parser.parse_args()
    count = train(args.text, args.tokens, args.model, args.nbpe)
    print(f"{args.tokens}: {count} tokens")


if __name__ == "__main__":
    run_main(main)
