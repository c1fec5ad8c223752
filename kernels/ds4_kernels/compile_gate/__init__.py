"""The compile gate: every shipped kernel configuration is compiled ahead of time, without a GPU, and its binary checked.

``discover`` lists the configurations, ``pool`` compiles them in worker processes (``measure`` does one), ``results``
remembers what was measured, ``rules`` decides, ``report`` shows. ``run.main`` is ``ds4-kernels compile``.
"""
