"""Makes ``assets/tokenizer.json``: ``python -m ds4bench.embedded.train_tokenizer``.

Byte-level BPE over sentences that this file generates, digits one by one, vocabulary 2048 with the special tokens
first. Deterministic: the same file comes out every time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ds4bench.embedded.chat.special_tokens import SPECIAL_TOKENS
from ds4bench.embedded.tokenizer import ASSET

VOCAB_SIZE = 2048
SENTENCES = 60_000
SEED = 4

_NOUNS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service "
    "friend father power hour game line end member law car city name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education apple box boat coin cookie dollar pencil marble ticket "
    "train bag bird book bottle bridge bus button cake candle card cat chair cloud code computer cup desk dog "
    "dress egg engine farm field fish flower forest garden gift glass grass hat hill horse island key kitchen "
    "lake lamp leaf letter library market meter mile mountain museum orange page paint paper park pear phone "
    "picture piece plane plant plate price profit queue record river road rope sail salt sand sea seat shelf ship "
    "shirt shoe shop sign snow song spoon star station stone store street sugar sun table tower town toy tree "
    "truck valley village wall wheel wind window winter wood yard archive harbour ledger lantern orchard signal "
    "tunnel warden weather answer total amount difference sum tool function argument value parameter city weather "
    "email contact file calendar event stock"
).split()
_VERBS = (
    "ask be become begin bring build buy call carry change come count cost cut eat fall feel find follow get give "
    "go grow have hear help hold keep know learn leave let like live look lose make mean meet move need open pay "
    "play put read remember run save say see sell send set show sit sleep speak spend stand start stay stop take "
    "talk tell think turn understand use wait walk want watch win work write add divide share multiply subtract "
    "search calculate check compare"
).split()
_OTHERS = (
    "the of and a to in he she it they that was for on are as with his her their at this have from or one had by "
    "but not what all were we when your can said there each which how if will up other about out many then them "
    "these so some would into more two three four five six seven eight nine ten twelve twenty hundred thousand "
    "first last next good new old great small large long little own other young different important early late "
    "few big high low green red blue white black yellow quiet bright narrow wooden distant every now only also "
    "after before between because while therefore however where who why does did is has not no yes please user "
    "assistant true false null none name type string object number description required properties parameters "
    "query answer result code key secret remember"
).split()
_MARKS = (
    ". ",
    ", ",
    "? ",
    "! ",
    ": ",
    "; ",
    ".\n",
    "\n\n",
    " = ",
    " + ",
    " - ",
    " * ",
    " / ",
    "#### ",
    "$",
    "% ",
    "(",
    ") ",
)


def sentences() -> Iterator[str]:
    """Generated text: word salad with plurals, past tenses, numbers, arithmetic and JSON."""
    rng = random.Random(SEED)  # noqa: S311 - text, not secrets
    for _ in range(SENTENCES):
        kind = rng.random()
        if kind < 0.08:
            yield json.dumps({_word(rng): _word(rng), _word(rng): rng.randint(0, 999)})
        elif kind < 0.16:
            a, b = rng.randint(1, 99), rng.randint(1, 99)
            yield f"{a} + {b} = {a + b}\n#### {a + b}\n"
        else:
            words = [_word(rng) for _ in range(rng.randint(4, 14))]
            yield words[0].capitalize() + " " + " ".join(words[1:]) + rng.choice(_MARKS)


def train() -> Tokenizer:
    """Train the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return tokenizer


def _word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_OTHERS)
    if kind < 0.7:
        return rng.choice(_NOUNS) + rng.choice(("", "", "s"))
    if kind < 0.92:
        return rng.choice(_VERBS) + rng.choice(("", "", "s", "ed", "ing", "er"))
    return str(rng.randint(0, 9999))


if __name__ == "__main__":
    ASSET.parent.mkdir(exist_ok=True)
    train().save(str(ASSET))
