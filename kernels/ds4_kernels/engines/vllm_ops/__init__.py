"""Hooks for vLLM's DeepSeek-V4, one module a group of ops. Each module has ``HOOKS``: hooks by vLLM version."""
