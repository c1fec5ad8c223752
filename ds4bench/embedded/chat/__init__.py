"""DeepSeek-V4's chat format: prompts from conversations, and reasoning, content and tool calls from replies."""
