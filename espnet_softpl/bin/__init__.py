"""Commands of espnet_softpl, each run as ``python -m espnet_softpl.bin.<name>``."""
