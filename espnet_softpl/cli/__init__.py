"""The command `softpl`: all commands of `espnet_softpl.bin` under one name."""
