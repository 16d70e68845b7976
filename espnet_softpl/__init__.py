"""Continuous pseudo-labeling for ESPnet: hard and soft labels, online teachers.

Importing the package imports nothing else, so that commands start at once; the
parts are ``espnet_softpl.criteria`` (losses, torch alone), ``espnet_softpl.training``
(the ESPnet task) and ``espnet_softpl.cli`` (commands).
"""

__version__ = "0.1.0"
