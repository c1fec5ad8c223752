"""Which kernel makes the difference between an engine with its own kernels and one with the bundled ones.

``search`` decides what to measure next and names culprits, from effects alone; ``effects`` reads an effect from a verdict;
``plan`` says beforehand how many serves it takes; ``runner`` measures; ``findings`` puts the outcome into words.
"""
