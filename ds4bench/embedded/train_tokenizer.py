"""Makes ``assets/tokenizer.json``: ``python -m ds4bench.embedded.train_tokenizer``.

Byte-level BPE, digits one by one, vocabulary 2048 with the special tokens first. Deterministic: the same file comes out
every time.

A word has the same tokens behind a space, a quote and an underscore: a model then copies a word that it never saw by
copying tokens, from a request ("the harbour") into a tool's name ("send_harbour") or an argument (">harbour<"). So the
space before a word is no part of its token, except before a few words of grammar. Marks that stand together are merged
(``"]}}``), but none takes the space behind it: a prompt that ends in "Answer:" must end in the same token as the prompts
that training saw. Dialogues with tools have a third fewer tokens than with GPT-2's rule, word problems a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ds4bench.embedded.chat.special_tokens import SPECIAL_TOKENS
from ds4bench.embedded.tokenizer import ASSET

VOCAB_SIZE = 2048

_GRAMMAR = (
    "the a an of to and in is are was were at on for with by it he she they his her has have had that from as or not be "
    "how many much each more then will does do one you your my if all after some them there can when so into this name string"
).split()
_GLUED = rf" (?:{'|'.join(_GRAMMAR)})(?!\p{{L}})"
_PARTS = rf"\d|{_GLUED}|\p{{L}}+| ?[^\s\p{{L}}\d]+\n*|\s*\n+|\s+"

_MARKS = (
    ">>", " =", " <<", " +", " -", " *", " /", ".\n", "?\n", "!\n", ":\n", ".\n\n", ":\n\n", ">\n", ">\n\n", '">\n',
    "\n\n", "####", "...\n", ' "', '":', '",', ' ["', ' {"', '{"', '"}', '"],', '"]}}\n', '"}},', '"},', '.",', '"?',
    '".', '="', '">', "</", ' "<', '>"', '>{"', '"}</', " $", "=$", " (", "),", ").", "...", "##", "###", "**", "](",
    "//", "    ", '"}}', '"`.', " `",
)  # fmt: skip

_WORDS = """
Adam Add After Alan Alice All Along Also Amy An And Anna Answer Around Assistant At Available BEFORE Before Behind
Below Ben Beside Betty Bob Both Bruno By Can Carl Carla Clara Compute Count DSML Dan David Diana Done Each Ella Emma
Eric Eva Every Felix Fetch Find Fiona First For Frank Gary George Give Grace Half He Helen Henry His How Hugo If In
Irene It Ivan JSON Jack Jane Janet Jim John Julia Karl Kate Ken Last Later Laura Lena Length Leo Lily Look Lucy Luke
MUST Mark Martin Mary Max Maya Mia Monday My NAME Name Natalie Near Never Next Nick Nina No Nora Now Of Olga On One
Oscar Otherwise PARAMETER Paul Paula Peter Please Question Ray Read Remember Rosa Ruth Sam Sara Schemas Search She
Some String TOOL That The Then There They This Three Tim Tina Together Tom Tool Tools Tuesday Under Use User VALUE
Vera Victor We What When Which Why Will With Work You Zoe above access action actor add added address adds after
afternoon again ages ailparts alarm all along also altogether among amount an and animals answer answers any apples
archive are area around arrays as asked ass assign assistant at average away back badges bag bagels bags baker balls
bananas barn baskets battery be beads before begin behind bell bells beside between bike bills binders birdhouses
biscuits black block blocks blue body boim book books boolean booleans boss bottle bottles bought bowls box boxes
boxs boy bricks bridge bright brings broke broken brought brushes build builder bundles buns bus bushes buttons buy
buyer buys by cake cakes called calls camera can candle candles cannot car card cards carried carrots cars cart
carts cases cents chair chairs changeer chart check child city class clock clocks code codes coin coins
coinsquestions cold collected collection collects color com come complete contract cook cookies corner cost costs
count counted counts course cows crates crayons crystals cup cupcakes cups daisies dark date day days defined
degrees delete description did difference digits dingrainddril directly divided do does dollar dollars done donuts
door doors doves down download drank drawer drinks drithod dry duration each earn earns eggs else email empty
enabled end engine enum equal equally erasers error evel evening every exam failed false far farmer fast father
feathers feet ferns fetch fewer field figs figures fills final find finds fine first five fixed flag floor flour
flower flowers folder folders follow following footom for format found four friend friends friendslys from function
gallons game garden gate gave get gets girl girls give given gives glue go goal goes gone good got gout green
grockcaind group groups grows guard guest had half hall hands harbour hard has hat hats have he heavy held help
helper helpful her hid high him his holds home horse horses hour hours house houses how hunter id in inches inside
integer into invent invoice invoke is it its jar job journal judge keeper keeps kept key keys king kites knife
knifes know known ladder ladders lake lamp lamps laps large last lasts late later learns leave leaves ledgmone left
legs lemons leng length less lesson letter letters level lifted light like lilies limes list lit lives location long
loses lost lunch machine made magnets mail make maker makes man many map maps marbles markers market mason me meal
measured menu message messages meters miles mill minutes missing mode model money month months more morning mother
moved much muffins must my name named narrow near necklaces need needed needs new next night no not note notebooks
notes nothing now number numbers nurse nuts object objects of off ok old older on one ones onions only onven oods
open opened operpar or oranges order ordered orders other others out output over owned owner owns packs page pages
paid painted paper parameter parameters parametersmultiplyer pass pay payment pays peaches pears pen pencils pens
people per perimeter person persons photo photos pick picks pieces pies pilot place plain plan plane plant plants
plate plates player players please plums poet points pool poor porter post posters pounds pretzels price print
printer problems properties push put puts puzzles quarter query question quiet quilts rate read reads reasoning
receives recipe red remain remember remove report required response rest result ribbons rich rider right ring rings
river road roof room rope ropes roses round route row rows rulers runs sacks same saved saves saw say saying scarfs
schemas school score scored search season seats second secret see seeds sell seller sells sends set sets share
shares she sheep shells shelves shirts shop short should sides singer six size small so soft sold solved song
specified speed spend spends spent split spoons spring square stamps stars start starts status steasplund step
stickers sticks still stone stones stood storesopener storm strange strawberries street strictly string student
students studies sugar sum summer sunflowers swam table tables takes tall tank tarts task teafeeng temperature tests
text than that the their them then there these they think thinking third this three ticket tickets time times title
to today together took tool tools total town toy toys trades train travels tree trees triggered trip truck true try
tulips turn turned twice two type typed types under unlock up ups urgency urgent us used user uses using valley
value very vet video waffles wagons walks wall want wanted wants warden wardensleter warm was washed washes watched
water way weaver week weeks weigh weighs well went were wet what wheel wheels when which white who whole wide width
will window windows winter winters with woman womsended words work worked worker workers works worth write writes
writing written wrote yard yards year years yellow you young younger your
""".split()
"""Of the generated training text, so that every token is learnt; names and words at the start of a sentence as well."""


def corpus() -> Iterator[str]:
    """Pieces of text, each as often as it shall weigh."""
    for pieces, times in ((_WORDS, 100), ([f" {word}" for word in _GRAMMAR], 400), (_MARKS, 200)):
        for piece in pieces:
            yield from [piece] * times


def train() -> Tokenizer:
    """Train the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PARTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


if __name__ == "__main__":
    ASSET.parent.mkdir(exist_ok=True)
    train().save(str(ASSET))
