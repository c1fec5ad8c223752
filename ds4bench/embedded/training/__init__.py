"""Training of ``ds4-nano``, the engine's own small weights: ``python -m ds4bench.embedded.training``.

The text is generated (``data``): word problems, three codes in a long journal, dialogues with tools; thinking or not.
More than half of the words of the dialogues are made up, and the tokenizer cuts a word alike wherever it stands: what is
learnt is to copy words, not to know them.
``model`` is the engine's architecture, batched and differentiable; the tests hold both to the same logits. ``plan`` is
the course of a run over its progress: rows of 512, then 2,048 and 8,192 tokens; from 65 % on everything that the engine
stores quantised is fake-quantised, from 75 % on the C4A layers see the indexer's top-k only. The indexer learns all the
time, from the attention that it serves. ``export`` writes DeepSeek's names and formats, ``evaluate`` scores them on
items whose templates, words and seeds training never uses.

Shape of the model (``config.NANO``): V4's fixed dimensions; layers, heads and experts as many as two CPU cores serve at
60 tokens a second. Four heads and a group of two per low-rank output halve the attention's matrices, the largest part.
"""
