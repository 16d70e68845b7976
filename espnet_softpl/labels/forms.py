"""Who learns from a label beside the last layer's CTC: the decoder, other layers."""

import dataclasses

from espnet_softpl.core.ranges import choice

DECODER_TARGETS = ("auto", "none", "transcript", "forced", "forced_soft")
LAYER_TARGETS = ("none", "last", "own")


@dataclasses.dataclass(frozen=True)
class LabelForms:
    """What else than the last layer's CTC is trained, and on what.

    Attributes:
        decoder: Target of the decoder (`pl_decoder`). `none`: it is not trained.
            `transcript`: the transcript that the teacher's CTC head spells; an
            attention decoder's, or a transducer's. `forced`: what the teacher's
            attention decoder answers at each position when it is fed that
            transcript, its best token; `forced_soft`: its whole distribution.
            `auto`: `transcript` for an attention decoder if the criterion is on
            transcripts, else `none`.
        layers: Target of intermediate CTC (`pl_interctc`). `none`: it is not trained.
            `last`: the last layer's label; `own`: that of the teacher's same layer.

    Raises:
        ValueError: A value that is not allowed.
    """

    decoder: str = "auto"
    layers: str = "none"

    def __post_init__(self) -> None:
        choice("pl_decoder:", self.decoder, DECODER_TARGETS)
        choice("pl_interctc:", self.layers, LAYER_TARGETS)

    @property
    def forced(self) -> bool:
        """Whether the teacher's decoder is asked."""
        return self.decoder in ("forced", "forced_soft")

    @property
    def soft(self) -> bool:
        """Whether its whole distribution is kept."""
        return self.decoder == "forced_soft"

    def decoder_target(self, on_transcripts: bool, transducer: bool) -> str:
        """Return what a decoder is trained on: any of `decoder` but `auto`."""
        if self.decoder != "auto":
            return self.decoder
        return "transcript" if on_transcripts and not transducer else "none"

    def identity(self) -> dict[str, str]:
        """Return the settings that saved labels depend on."""
        return {
            "pl_decoder": self.decoder if self.forced else "auto",
            "pl_interctc": self.layers if self.layers == "own" else "none",
        }
