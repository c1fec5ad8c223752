"""The bundle inside of a serving engine: hooks that put our ops in place of the engine's, and what they report.

``hooks`` says what is replaced and installs it, ``calls`` is what a replaced function does, ``shadow`` compares the two,
``report`` keeps the JSON file, ``importing`` patches modules when the engine imports them, ``selection`` decides whether
a device gets the bundle. ``vllm`` is the plugin's entry point; ``vllm_ops`` holds its hooks, one module a group of ops.
"""
