"""DeepSeek-V4's special tokens. The bars are full-width (U+FF5C), the underscores U+2581."""

from __future__ import annotations

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"
LATEST_REMINDER = "<｜latest_reminder｜>"
TASKS = {
    "action": "<｜action｜>",
    "query": "<｜query｜>",
    "authority": "<｜authority｜>",
    "domain": "<｜domain｜>",
    "title": "<｜title｜>",
    "read_url": "<｜read_url｜>",
}

# In the order of their ids: the tokenizer's vocabulary begins with them.
SPECIAL_TOKENS = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML, LATEST_REMINDER, *TASKS.values())

# Part of a reply's text: the parsers need to see them. The others structure the prompt and never show.
TOKENS_IN_TEXT = (THINK, END_THINK, DSML)
