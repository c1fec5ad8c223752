# ruff: noqa: E501  (tables of text: one entry a line)
"""Wordings of the training dialogues, many by combination: what stands around a request must teach nothing about it.

``[w]`` stands for a made-up word. None of these wordings is in the held-out pool (a test looks).
"""

from __future__ import annotations

_OPENERS = (
    "Please ", "Can you ", "", "", "", "I need you to ", "Could you please ", "I want to ", "We have to ", "Help me ", "It is time to ",
    "Now ", "My boss asked me to ", "Would you ", "Let us ", "You should ", "I have a question. Can you ", "Hello! Please ",
    "Good morning, could you ", "I think we should ", "The team wants to ", "My friend asked you to ", "It would be great to ",
    "Next, ", "As soon as you can, ", "One more thing: ", "Quick: ", "If possible, ", "My plan is to ", "I forgot to ", "This week we ",
    "Do me a favor and ", "Sorry, but you need to ", "Before I go home, ", "A customer wants us to ", "For the project, ", "Everyone waits: ",
    "Tomorrow I have to ", "Hi, I am [w]. ", "[w]: ", "[w] wants you to ", "[w] [w] [w] ", "Listen, [w], ", "The [w] says: ", "Dear [w], ",
    "Because of the [w], ", "I am in the [w] and have to ", "No [w] today, so ", "You can [w] later, but first ", "Are you able to ",
    "I wonder if you could ", "Nobody did it yet, so ", "They told me to ", "Your job is to ", "Start now and ", "Take your time and ",
)  # fmt: skip
_OBJECTS = (*["the {noun}"] * 4, "a {noun}", "my {noun}", "our {noun}", "that {noun}")
_TAILS = (  # each begins with a mark: else it could belong to the text before it
    ".", ".", ".", ".", "?", "?", "!", ", please.", ", now.", ", for me, please.", ", thank you.", ", will you?", ", if you can.", ". Thanks!",
    ", okay?", ", right now.", ", and tell me when it is done.", ". It is important.", ", or [w] will be sad.", ", [w].", ". That is all.",
    ", and do nothing else.", ", again.", ", if you have the time.", ", would that be possible?", ", before the [w].", ". [w] waits for it.",
)  # fmt: skip


def _opened(opener: str) -> str:
    return "{Verb}" if not opener or opener.endswith((". ", "! ")) else "{verb}"


REQUESTS = tuple(
    f"{opener}{_opened(opener)} {thing}{{with_}}{tail}" for opener in _OPENERS for thing in _OBJECTS for tail in _TAILS
)
"""With {verb} or {Verb}, {noun} and {with_}."""

PAIRS = tuple(
    f"{{one}} {link} {{two}}"
    for link in (
        "Also,", "And", "Then", "At the same time,", "Next,", "Later,", "In addition,", "Once that is done,", "Finally,", "Moreover,",
        "As a second thing,", "When you have that,", "Together with that,", "[w],", "For [w],", "While you are there,", "Apart from that,",
        "A second wish:", "Number two:", "Now to the other thing:", "Do not stop there:", "In the next step,",
    )
)  # fmt: skip
"""With {one} and {two}."""

CHAINS = (
    "Find the {noun} named {name} and {verb} it.", "Look for the {noun} {name}, then {verb} it.",
    "Please {verb} the {noun} called {name}. Find it first.", "Search the {noun} {name} and {verb} what you find.",
    "We have a {noun}, and its name is {name}. You should {verb} it.", "The {noun} {name} is what I want to {verb}.",
    "Somewhere is a {noun} with the name {name}. Can you {verb} it?", "Get me the {noun} {name} and then {verb} it, please.",
    "One {noun} is called {name}; find that one first, and then {verb} it.", "Which {noun} is {name}? Please {verb} it.",
    "I need the {noun} {name}. When you have it, {verb} it.", "First find the {noun} {name}. Second, {verb} it.",
    "Can you find the {noun} {name} for me and {verb} it?", "My {noun} is named {name}. Find and {verb} it.",
    "[w] has a {noun} called {name}. Search for it, then {verb} it.", "You know the {noun} {name}. {Verb} it!",
    "Our {noun} has the name {name}, [w] says. {Verb} it.", "To {verb} the {noun} {name}, find it first.",
    "It is about the {noun} {name}: we have to {verb} it.", "A {noun}, {name}, must be found. After you found it, {verb} it.",
)  # fmt: skip
"""With {noun}, {verb} or {Verb}, and {name}."""

_TOLD = (  # what is told; {0} is "my" or "the"
    "{0} {{noun}} is {{value}}.", "You should know that {0} {{noun}} is {{value}}.", "I say that {0} {{noun}} is {{value}}.",
    "Yesterday {0} {{noun}} was {{value}}.", "{{person}} says that {0} {{noun}} is {{value}}.", "This morning {0} {{noun}} was {{value}}.",
    "The name that I gave {0} {{noun}} is {{value}}.", "{0} {{noun}} became {{value}}.", "Everybody calls {0} {{noun}} {{value}}.",
    "Note this: {0} {{noun}} is {{value}}.", "With [w] and [w], {0} {{noun}} is {{value}} now.", "{{person}} named {0} {{noun}} {{value}}.",
    "To {{person}}, {0} {{noun}} looks {{value}}.", "[w] told me that {0} {{noun}} was {{value}}.", "{{person}} saw that {0} {{noun}} is {{value}}.",
)  # fmt: skip
_ASKED = (
    "How is {0} {{noun}}?", "What is {0} {{noun}}?", "Tell me how {0} {{noun}} is.", "How was {0} {{noun}}?", "What is {0} {{noun}} like?",
    "What do they call {0} {{noun}}?", "What can you say about {0} {{noun}}?", "Is {0} {{noun}} known to you?", "What did I say about {0} {{noun}}?",
)  # fmt: skip


def _fact(told: str, asked: str, owner: str, answer: str) -> tuple[str, str]:
    text = told.format(owner)
    return f"{text[0].upper()}{text[1:]} {asked.format(owner)}", f"{answer} {{noun}} is {{value}}."


FACTS = tuple(
    _fact(told, asked, owner, answer)
    for told in _TOLD for asked in _ASKED for owner, answer in (("my", "Your"), ("the", "The"))
)  # fmt: skip
"""Text with {noun}, {value} and {person}, and the answer."""
