"""Triton kernels. A module here mirrors the module of the same name in ``ds4_kernels.reference``: same functions, same
signatures. Each module lists its shipped configurations in ``compile_cases()`` for the ahead-of-time compile gate."""
