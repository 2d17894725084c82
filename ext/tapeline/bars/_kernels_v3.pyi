# One source, compiled twice: one list of what it holds.
from tapeline.bars._kernels import *  # noqa: F403
