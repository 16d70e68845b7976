"""The stock ESPnet model, with decoders that learn from weighted pseudo-labels."""

from __future__ import annotations

import torch
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.criteria.decoder_ce import hard_losses, soft_losses, with_ends
from espnet_softpl.ctc import PADDING
from espnet_softpl.labels.pseudo_label import DecoderLabel, PseudoLabel


class DecoderModel(ESPnetASRModel):
    """A stock ASR model whose decoder can be trained on pseudo-labels."""

    def decoder_scores(
        self,
        encoder_out: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed the attention decoder with transcripts, all positions at once.

        Args:
            encoder_out: (B, T, D).
            lengths: Frames per utterance, (B,).
            tokens: (B, U), padded with any value.
            token_lengths: (B,), at most U.

        Returns:
            Its scores before the softmax, (B, P, V), and the transcripts with their
            ends, (B, P), padded with -1. P is U + 1, one more with `lang_token_id`.
        """
        if self.lang_token_id is not None:
            language = self.lang_token_id.to(tokens).expand(tokens.size(0), 1)
            tokens, token_lengths = torch.cat([language, tokens], 1), token_lengths + 1
        inputs, targets = with_ends(tokens, token_lengths, self.sos, self.eos)
        scores, _ = self.decoder(encoder_out, lengths, inputs, token_lengths + 1)
        return scores, targets

    def pseudo_decoder_loss(
        self,
        target: str,
        encoder_out: torch.Tensor,
        lengths: torch.Tensor,
        label: PseudoLabel,
        answer: DecoderLabel | None = None,
    ) -> torch.Tensor:
        """Compute the loss of the decoder on pseudo-labels.

        Args:
            target: `transcript`, `forced` or `forced_soft`; see `LabelForms`.
            encoder_out: (B, T, D).
            lengths: Frames per utterance, (B,).
            label: A weight of 0 leaves an utterance out, whatever is in it; a
                transducer is not trained on empty transcripts.
            answer: What the teacher's decoder answered; for the last two targets.

        Returns:
            sum(weights * losses) / B, a scalar; 0 if no utterance is used.
        """
        is_used = label.weight > 0
        if self.use_transducer_decoder:
            is_used = is_used & (label.token_lengths > 0)
        rows = is_used.nonzero().squeeze(1)  # The utterances that are used.
        if rows.numel() == 0:
            return encoder_out.new_zeros(())
        encoder_out, lengths = encoder_out[rows], lengths[rows]
        if self.use_transducer_decoder or isinstance(self.decoder, RNNDecoder):
            # They take the longest utterance to fill all frames.
            encoder_out = encoder_out[:, : int(lengths.max())]
        token_lengths, weight = label.token_lengths[rows], label.weight[rows]
        tokens = label.tokens[rows, : int(token_lengths.max())]
        share = rows.numel() / label.weight.numel()
        inputs = (encoder_out, lengths, tokens, token_lengths)
        if self.use_transducer_decoder:
            return self._transducer_loss(*inputs, weight) * share
        if target == "transcript" and bool((weight == 1.0).all()):
            return self._calc_att_loss(*inputs)[0] * share
        scores, targets = self.decoder_scores(*inputs)  # (B', P, V), (B', P)
        if target == "forced_soft":
            tokens, log_probs = (
                part[rows, : scores.size(1)]
                for part in (answer.tokens, answer.log_probs)
            )
            answer = DecoderLabel(tokens, answer.lengths[rows], log_probs)
            losses = soft_losses(scores, answer)
        else:
            if target == "forced":
                targets = answer.tokens[rows, : scores.size(1)]
            losses = hard_losses(scores, targets, self.criterion_att.smoothing)
        if self.criterion_att.normalize_length:
            losses = losses * (rows.numel() / (targets != PADDING).sum())
        return weighted_mean(losses, weight) * share

    def _transducer_loss(
        self,
        encoder_out: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """Compute a transducer's loss, a mean over utterances."""
        if bool((weight == 1.0).all()):
            return self._calc_transducer_loss(encoder_out, lengths, tokens)[0]
        # ESPnet's loss is a mean already: utterances of their own weight go alone.
        losses = [
            self._calc_transducer_loss(
                encoder_out[i : i + 1, : int(lengths[i])],
                lengths[i : i + 1],
                tokens[i : i + 1, : int(token_lengths[i])],
            )[0].reshape(())
            for i in range(len(weight))
        ]
        return weighted_mean(torch.stack(losses), weight)
