# ruff: noqa: E501  (tables of text: one entry a line)
"""Templates of the 200 items of ``gsm8k-nano-far`` (form: ``problems``). Never trained on."""

from __future__ import annotations

from ds4bench.embedded.training.data.problems import parse

TEMPLATES = parse("""
a 5-70, b 3-40 | On Monday {N} bought {a} {things} at {place}. On Tuesday {he} bought {b} more {things}. How many {things} did {N} buy altogether? | Altogether {N} bought [x=a+b] {things}.
a 20-90, b 2-19 | {N} lost {b} of {his} {things}. Before that {he} had {a} {things}. How many {things} does {he} have left? | {N} has [x=a-b] {things} left.
a 3-15, b 2-9, c 2-30 | {N} had {c} {things}. Then {he} bought {a} {boxes} with {b} {things} in each {box}. How many {things} does {N} have now? | The {boxes} hold [x=a*b] {things}. / Now {N} has [y=c+x] {things}.
a 3-12, b 2-8, c 40-99 | {N} has ${c} and buys {b} {things} that cost ${a} each. How much money does {N} have in the end? | The {things} cost [x=b*a] dollars. / {N} has [y=c-x] dollars in the end.
a 4-30, b 2-5 | {M} picked {a} {things} in the garden, and {N} picked {b} times as many. How many {things} did they pick in total? | {N} picked [x=a*b] {things}. / In total they picked [y=a+x] {things}.
a 12-60, b 12-60, c 2-6 | {N} and {M} put their {things} together and share them equally among {c} {people}. {N} has {a} {things} and {M} has {b}. How many {things} does each one get? | Together they have [x=a+b] {things}. / Each one gets [y=x/c] {things}.
a 5-15, b 2-8, c 3-40 | {N} earns ${a} an hour. Today {he} worked {b} hours and then spent ${c} at {place}. How much of the money is left? | {N} earns [x=a*b] dollars. / There are [y=x-c] dollars left.
a 10-50, b 3-30, c 3-30 | In the morning a shop had {a} {things}. {b} more {things} came, and then {c} {things} were sold. How many {things} does the shop have now? | After {b} came there were [x=a+b] {things}. / Now the shop has [y=x-c] {things}.
a 4-20, b 2-7, c 4-40 | {N} reads {a} pages a day for {b} days and then {c} pages on Sunday. How many pages does {he} read in all? | In {b} days {N} reads [x=a*b] pages. / In all {he} reads [y=x+c] pages.
a 24-96, b 2-8, c 2-9 | {a} {things} are put equally into {b} {boxes}. {N} sells one {box} and gets ${c} for each of its {things}. How much money does {N} get? | Each {box} has [x=a/b] {things}. / {N} gets [y=x*c] dollars.
a 5-40, b 2-20, c 2-20 | {N} is {a} years old. {M} is {b} years older than {N}. How old will {M} be in {c} years? | {M} is [x=a+b] years old. / In {c} years {M} will be [y=x+c] years old.
a 10-60 by 2, b 2-5 | {N} found {a} {things} and gave half of them to {M}. {M} puts {b} times as many {things} on a table. How many {things} are on the table? | {M} got [x=a/2] {things}. / There are [y=x*b] {things} on the table.
a 4-30, b 3-25, c 2-20 | {N} has {a} {things}. {M} has {b} more {things} than {N}, and {K} has {c} fewer {things} than {M}. How many {things} does {K} have? | {M} has [x=a+b] {things}. / {K} has [y=x-c] {things}.
a 3-12, b 3-12, c 2-9 | A garden has {a} rows of {b} {color} flowers and one row of {c} {shade} flowers. How many flowers does the garden have? | There are [x=a*b] {color} flowers. / In all the garden has [y=x+c] flowers.
a 10-40, b 3-20, c 2-6 | A train with {a} people stops. {b} people get on, and each of them brings {c} bags. How many bags come on the train? | They bring [x=b*c] bags.
a 30-90, b 2-9, c 2-9 | {N} needs {a} {things}. {He} has {b} {boxes} with {c} {things} in each. How many more {things} does {N} need? | {N} has [x=b*c] {things}. / {He} needs [y=a-x] more {things}.
a 3-20, b 2-6, c 2-5 | {N} makes {a} {things} an hour and {M} makes {b} {things} an hour. How many {things} do they make together in {c} hours? | Together they make [x=a+b] {things} an hour. / In {c} hours they make [y=x*c] {things}.
a 3-20, b 2-6, c 3-30 | {N} sold {a} {things} on Friday, and on Saturday {he} sold {b} times as many. On Sunday {he} sold {c}. How many {things} did {he} sell in the three days? | On Saturday {N} sold [x=a*b] {things}. / On Friday and Saturday {he} sold [y=a+x] {things}. / In the three days {he} sold [z=y+c] {things}.
""")
