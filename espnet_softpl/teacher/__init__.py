"""Teachers: who labels.

A teacher that keeps weights of its own copies the student at the first unlabeled
mini-batch: the base model if pseudo-labeling starts at once, the warmed-up model if it
starts later. The copy is in float32 and in eval mode, outside the student's
`parameters()` and `state_dict()`. What a teacher does depends on the student's weights
alone: processes that hold the same student hold the same teacher, with no exchange. A
setting that is out of its range raises ValueError.
"""

from espnet_softpl.core.modules import evaluating, frozen_copy
from espnet_softpl.teacher.base import REGISTRY, Teacher, available, build, register
from espnet_softpl.teacher.delayed import DelayedTeacher
from espnet_softpl.teacher.ema import EMATeacher
from espnet_softpl.teacher.following import FollowingTeacher
from espnet_softpl.teacher.frozen import FrozenTeacher
from espnet_softpl.teacher.topn import TopNTeacher
