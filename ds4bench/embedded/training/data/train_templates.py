# ruff: noqa: E501  (tables of text: one entry a line)
"""Templates of the word problems to train on (form: ``problems``). Those held out are in ``held_out_templates``."""

from __future__ import annotations

from ds4bench.embedded.training.data.problems import parse

TEMPLATES = parse("""
a 3-90, b 2-60 | {N} has {a} {things}. {He} buys {b} more {things}. How many {things} does {N} have now? | {N} has [x=a+b] {things} now.
a 10-99, b 2-60 | {N} had {a} {things}. {He} gave {b} {things} to {M}. How many {things} are left? | {N} has [x=a-b] {things} left.
a 3-60, b 2-9 | {N} has {a} {things}. {M} has {b} times as many {things} as {N}. How many {things} does {M} have? | {M} has [x=a*b] {things}.
a 3-40, b 2-9 | {N} has {a} {things}. {M} has {b} times as many {things}. How many {things} do they have together? | {M} has [x=a*b] {things}. / Together they have [y=a+x] {things}.
a 12-96, b 2-9 | {N} shares {a} {things} equally among {b} {people}. How many {things} does each one get? | Each one gets [x=a/b] {things}.
a 2-20, b 2-12 | There are {a} {boxes} with {b} {things} in each {box}. How many {things} are there in total? | There are [x=a*b] {things} in total.
a 2-15, b 2-12, c 2-50 | There are {a} {boxes} with {b} {things} in each {box}. {N} adds {c} more {things}. How many {things} are there now? | The {boxes} hold [x=a*b] {things}. / Now there are [y=x+c] {things}.
a 2-15, b 3-12, c 2-30 | {N} has {a} {boxes} of {things}. Each {box} has {b} {things}. {He} loses {c} {things}. How many {things} does {he} have left? | {N} has [x=a*b] {things}. / After losing {c}, {he} has [y=x-c] {things} left.
a 2-12, b 2-20 | A {good} costs ${a}. {N} buys {b} of them. How much does {N} pay? | {N} pays [x=a*b] dollars.
a 2-12, b 2-9, c 20-99 | A {good} costs ${a}. {N} buys {b} of them with ${c}. How much money does {he} have left? | The cost is [x=a*b] dollars. / {N} has [y=c-x] dollars left.
a 2-12, b 2-9, c 2-12, d 2-9 | A {good} costs ${a} and a {ware} costs ${c}. {N} buys {b} of the first and {d} of the second. How much does {N} spend in all? | The first cost [x=a*b] dollars. / The second cost [y=c*d] dollars. / In all {N} spends [z=x+y] dollars.
a 8-60, b 2-30, c 2-30 | {N} has {a} {things}. {M} gives {him} {b} more and {K} gives {him} {c} more. How many {things} does {N} have in the end? | After {M}'s gift {N} has [x=a+b] {things}. / After {K}'s gift {N} has [y=x+c] {things}.
a 20-99, b 2-20, c 2-20 | {N} had {a} {things}. {He} lost {b} on Monday and {c} on Tuesday. How many {things} remain? | After Monday {N} had [x=a-b] {things}. / After Tuesday {N} had [y=x-c] {things}.
a 4-40, b 2-30 | {N} has {a} {things}. {M} has {b} more {things} than {N}. How many {things} do they have altogether? | {M} has [x=a+b] {things}. / Altogether they have [y=a+x] {things}.
a 10-60, b 2-9 | {N} has {a} {things}. {M} has {b} fewer {things} than {N}. How many {things} do they have altogether? | {M} has [x=a-b] {things}. / Altogether they have [y=a+x] {things}.
a 4-80 by 2 | {N} sold {a} {things} in April and half as many in May. How many {things} did {N} sell in both months? | In May {N} sold [x=a/2] {things}. / In both months {N} sold [y=a+x] {things}.
a 5-20, b 2-8 | {N} earns ${a} an hour for {job}. How much does {he} earn in {b} hours? | {N} earns [x=a*b] dollars.
a 5-20, b 2-8, c 2-6 | {N} works {b} hours a day and earns ${a} an hour. How much does {he} earn in {c} days? | {N} earns [x=a*b] dollars a day. / In {c} days {he} earns [y=x*c] dollars.
a 4-30, b 2-9 | {N} reads {a} pages every day. How many pages does {he} read in {b} days? | {N} reads [x=a*b] pages.
a 60-300, b 5-30, c 2-6 | A book has {a} pages. {N} reads {b} pages a day for {c} days. How many pages are left to read? | {N} reads [x=b*c] pages. / There are [y=a-x] pages left.
a 20-200, b 2-20 | A book has {a} pages. {N} reads {b} pages every day. How many days does {he} need to finish it? | {N} needs [x=a/b] days.
a 3-30, b 3-30, c 3-30 | There are {a} {animals}, {b} {beasts} and {c} birds on a farm. How many animals are on the farm? | The {animals} and {beasts} are [x=a+b] animals. / With the birds there are [y=x+c] animals.
a 3-40 | A farmer has {a} {animals}. Each of them has 4 legs. How many legs do they have in total? | They have [x=a*4] legs.
a 10-80, b 3-30, c 2-9 | A bus has {a} people on it. At a stop {b} people get off and {c} people get on. How many people are on the bus now? | After {b} get off there are [x=a-b] people. / After {c} get on there are [y=x+c] people.
a 12-90, b 2-9, c 2-6 | {N} picks {a} {things} and puts {b} of them into each {box}. {He} sells each {box} for ${c}. How much money does {he} make? | {N} fills [x=a/b] {boxes}. / {He} makes [y=x*c] dollars.
a 12-99, b 2-20, c 2-8 | {N} has {a} {things}. {He} eats {b} of them and shares the rest equally among {c} {people}. How many {things} does each one get? | After eating {b}, {N} has [x=a-b] {things}. / Each one gets [y=x/c] {things}.
a 4-30, b 4-30, c 2-6 | {N} has {a} {color} {things} and {b} {shade} {things}. {He} puts them all into {c} {boxes} equally. How many {things} are in each {box}? | There are [x=a+b] {things}. / Each {box} has [y=x/c] {things}.
a 4-30, b 2-5, c 2-30 | {N} is {a} years old. {M} is {b} times as old as {N}. How old will {M} be in {c} years? | {M} is [x=a*b] years old. / In {c} years {M} will be [y=x+c] years old.
a 20-70, b 3-18 | {N} is {a} years old. {M} is {b} years younger. What is the sum of their ages? | {M} is [x=a-b] years old. / The sum of their ages is [y=a+x].
a 10-60, b 2-8 | A train travels {a} miles in one hour. How many miles does it travel in {b} hours? | It travels [x=a*b] miles.
a 10-60, b 2-8, c 5-60 | A truck travels {a} miles an hour for {b} hours and then {c} miles more. How many miles does it travel in all? | In {b} hours it travels [x=a*b] miles. / In all it travels [y=x+c] miles.
a 2-9, b 2-9, c 2-6 | A school has {a} classes on each of {b} floors. Each class has {c} windows. How many windows does the school have? | The school has [x=a*b] classes. / It has [y=x*c] windows.
a 20-90, b 5-40, c 2-40 | {N} wants to buy a {good} that costs ${a}. {He} has ${b} and {his} mother gives {him} ${c}. How much more money does {N} need? | {N} has [x=b+c] dollars. / {He} needs [y=a-x] dollars more.
a 20-90, b 2-15 | {N} wants to buy a {good} for ${a}. {He} saves ${b} every week. How many weeks does {he} need? | {N} needs [x=a/b] weeks.
a 3-20, b 2-8, c 2-6 | {N} bakes {a} cakes every day for {b} days. {He} gives away {c} cakes. How many cakes does {N} have left? | {N} bakes [x=a*b] cakes. / {He} has [y=x-c] cakes left.
a 10-60, b 2-6 | {N} scored {a} points in the first game and {b} times as many in the second game. How many points did {N} score in total? | In the second game {N} scored [x=a*b] points. / In total {N} scored [y=a+x] points.
a 10-60, b 5-40, c 2-30 | {N} scored {a} points, {M} scored {b} points and {K} scored {c} points. How many points did the team score? | {N} and {M} scored [x=a+b] points. / The team scored [y=x+c] points.
a 20-90, b 5-30 | {N} scored {a} points and {M} scored {b} points. How many more points did {N} score than {M}? | {N} scored [x=a-b] points more.
a 2-12, b 2-9, c 2-9 | {N} buys {a} packs of {things}. Each pack has {b} {things}. {He} also buys {c} packs of {stuff} with {b} {stuff} in each. How many {things} and {stuff} does {he} buy? | {N} buys [x=a*b] {things}. / {He} buys [y=c*b] {stuff}. / In all {he} buys [z=x+y].
a 10-60, b 2-20, c 2-20 | There are {a} students in a class. {b} students are new and {c} students leave. How many students are in the class now? | With the new ones there are [x=a+b] students. / After {c} leave there are [y=x-c] students.
a 20-90, b 5-40 | There are {a} students in a class. {b} of them are girls. How many boys are in the class? | There are [x=a-b] boys.
a 20-90, b 5-40 | There are {a} students in a class and {b} are boys. How many more girls than boys are there? | There are [x=a-b] girls. / There are [y=x-b] more girls than boys.
a 2-12, b 2-12, c 2-12 | A garden has {a} rows with {b} flowers in each row. {N} plants {c} more rows. How many flowers are there now? | Now there are [x=a+c] rows. / There are [y=x*b] flowers.
a 4-40, b 2-20, c 2-5 | {N} has {a} {things} and finds {b} more. Then {M} gives {him} {c} times as many as {he} has. How many {things} did {M} give {him}? | {N} has [x=a+b] {things}. / {M} gave {him} [y=x*c] {things}.
a 10-80 by 5, b 2-20 | {N} had ${a}. {He} spent ${b} on lunch and then earned as much as {he} had spent. How much money does {N} have now? | After lunch {N} has [x=a-b] dollars. / Now {N} has [y=x+b] dollars.
a 2-9, b 2-9, c 2-9 | {N} runs {a} miles on Monday, {b} miles on Tuesday and {c} miles on Friday. How many miles does {he} run in total? | On Monday and Tuesday {N} runs [x=a+b] miles. / In total {he} runs [y=x+c] miles.
a 2-9, b 2-9, c 2-5 | {N} runs {a} miles in the morning and {b} miles in the evening every day. How many miles does {he} run in {c} days? | {N} runs [x=a+b] miles a day. / In {c} days {he} runs [y=x*c] miles.
a 10-90, b 2-9, c 2-9 | {N} has {a} meters of rope. {He} cuts it into pieces of {b} meters. Then {he} gives away {c} pieces. How many pieces are left? | {N} cuts [x=a/b] pieces. / There are [y=x-c] pieces left.
a 2-20, b 2-20 | A room is {a} meters long and {b} meters wide. What is its area in square meters? | The area is [x=a*b] square meters.
a 2-40, b 2-40 | A field is {a} meters long and {b} meters wide. How many meters is it around the field? | The length and the width are [x=a+b] meters. / Around the field it is [y=x*2] meters.
a 3-30, b 2-10 | {N} collects {a} {things} a week. How many {things} does {he} collect in {b} weeks? | {N} collects [x=a*b] {things}.
a 3-30, b 2-9, c 2-40 | {N} collects {a} {things} a week for {b} weeks. {M} collects {c} {things} in all. How many {things} do they have together? | {N} collects [x=a*b] {things}. / Together they have [y=x+c] {things}.
a 12-96, b 2-8, c 2-9 | {N} puts {a} {things} equally into {b} {boxes}. {M} takes {c} {things} from one {box}. How many {things} are left in that {box}? | Each {box} has [x=a/b] {things}. / There are [y=x-c] {things} left in it.
a 10-50, b 2-20, c 2-10 | A shop had {a} {things}. It sold {b} in the morning and {c} in the afternoon. How many {things} were not sold? | The shop sold [x=b+c] {things}. / There were [y=a-x] {things} not sold.
a 2-9, b 2-12, c 2-12 | {N} sells {b} {things} for ${a} each and {c} {stuff} for ${a} each. How much money does {N} get? | {N} sells [x=b+c] pieces. / {He} gets [y=x*a] dollars.
a 4-60, b 2-9, c 2-40 | {M} has {a} {things}. {N} has {b} times as many. {N} gives {c} {things} away. How many {things} does {N} have left? | {N} has [x=a*b] {things}. / After that {N} has [y=x-c] {things} left.
a 4-30, b 2-5, c 2-20 | {N} has {a} {things}. {M} has {b} times as many as {N}, and {K} has {c} more than {M}. How many {things} does {K} have? | {M} has [x=a*b] {things}. / {K} has [y=x+c] {things}.
a 4-30, b 2-20, c 2-4 | {N} has {a} {things}. {M} has {b} more than {N}, and {K} has {c} times as many as {M}. How many {things} does {K} have? | {M} has [x=a+b] {things}. / {K} has [y=x*c] {things}.
a 2-9, b 10-60 | {N} types {b} words in one minute. How many words does {he} type in {a} minutes? | {N} types [x=b*a] words.
a 2-9, b 2-12, c 2-9, d 2-30 | {N} buys {a} {boxes} of {b} {things} and {c} {boxes} of {d} {things}. How many {things} does {he} buy? | The first {boxes} have [x=a*b] {things}. / The other {boxes} have [y=c*d] {things}. / {N} buys [z=x+y] {things}.
a 20-99, b 2-40, c 2-9 | {N} had {a} {things}. {He} sold {b} of them for ${c} each. How much money did {he} get? | {N} got [x=b*c] dollars.
a 20-99, b 2-9, c 2-30 | {N} divides {a} {things} into {b} equal groups and adds {c} {things} to one group. How many {things} are in that group? | Each group has [x=a/b] {things}. / That group has [y=x+c] {things}.
a 2-12, b 2-6, c 2-6 | {N} drinks {a} cups of water a day. {M} drinks {b} cups more than {N} a day. How many cups does {M} drink in {c} days? | {M} drinks [x=a+b] cups a day. / In {c} days {M} drinks [y=x*c] cups.
a 20-80, b 2-9, c 2-9 | {N} has ${a}. {He} buys {b} {things} for ${c} each. How much money is left? | The {things} cost [x=b*c] dollars. / There are [y=a-x] dollars left.
a 30-99, b 2-9, c 2-9, d 2-9 | {N} has ${a}. {He} buys a {good} for ${b}, a {ware} for ${c} and a card for ${d}. How much money does {N} have left? | The first two cost [x=b+c] dollars. / All three cost [y=x+d] dollars. / {N} has [z=a-y] dollars left.
a 4-48 by 4 | {N} has {a} {things}. {M} has a quarter as many. How many {things} does {M} have? | {M} has [x=a/4] {things}.
a 6-60 by 2, b 2-30 | {N} had {a} {things}. {He} gave half of them to {M} and then found {b} more. How many {things} does {N} have now? | {N} gave away [x=a/2] {things}. / {He} had [y=a-x] {things} left. / Now {N} has [z=y+b] {things}.
a 6-60 by 3 | {N} picked {a} {things} and gave a third of them to {M}. How many {things} does {N} still have? | {N} gave away [x=a/3] {things}. / {N} still has [y=a-x] {things}.
a 3-40 | {N} has {a} {things}. {M} has twice as many. How many {things} does {M} have? | {M} has [x=a*2] {things}.
a 3-40 | {N} found {a} {things}. {M} found twice as many as {N}. How many {things} did they find together? | {M} found [x=a*2] {things}. / Together they found [y=a+x] {things}.
a 3-30, b 2-20 | {M} made three times as many {things} as {N}. {N} made {a} {things}, and {b} of {M}'s {things} broke. How many of {M}'s {things} are whole? | {M} made [x=a*3] {things}. / There are [y=x-b] whole {things}.
a 2-15, b 2-9, c 2-9 | Each of {a} {people} brings {b} {things} and {c} {stuff} to a party. How many {things} and {stuff} are there? | Each one brings [x=b+c]. / In total there are [y=x*a].
""")
