"""Names and nouns that the word problems share; the held-out problems use them in sentences of their own."""

from __future__ import annotations

WOMEN = (
    "Anna Mia Lena Sara Nora Ella Ruth Clara Diana Emma Julia Laura Maya Nina Olga Paula Rosa Tina Vera Zoe Alice Betty "
    "Carla Fiona Grace Helen Irene Janet Kate Lucy Mary Natalie Amy Eva Jane Lily"
).split()
MEN = (
    "Tom Ben Max Paul Mark Leo Adam Carl David Eric Frank George Henry Ivan Jack Karl Luke Martin Nick Oscar Peter Ray "
    "Sam Victor Will Alan Bruno Dan Felix Gary Hugo Jim Ken Tim Bob John"
).split()
THINGS = (
    "apples pears books pencils marbles stamps coins cookies stickers cards balls shells buttons flowers cakes boxes "
    "toys candles eggs oranges tickets letters bottles cups plates leaves stars stones badges photos beads lemons nuts "
    "peaches plums pens puzzles ribbons roses spoons hats shirts bags keys maps kites"
).split()
GOODS = "book hat shirt bag toy lamp chair cake ticket game pen cup kite puzzle plate candle map ball".split()
BOXES = "boxes bags baskets jars trays shelves rows packs crates drawers".split()
BOX = dict(zip(BOXES, "box bag basket jar tray shelf row pack crate drawer".split(), strict=True))
PEOPLE = "friends children students players workers guests neighbours cousins teachers members".split()
PLACES = "a market,a school,a park,a library,a farm,a shop,a museum,a garden,a bakery,a station".split(",")
ANIMALS = "dogs cats cows horses hens sheep ducks goats rabbits birds".split()
JOBS = "baking painting driving cleaning sewing typing walking cooking reading fishing".split()
COLORS = "red blue green white black yellow".split()
