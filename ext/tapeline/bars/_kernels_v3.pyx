# cython: freethreading_compatible=True
"""The same source compiled for x86-64-v3 (AVX2); `tapeline.bars` takes it where the processor has it."""

include "_kernels.pyx"
