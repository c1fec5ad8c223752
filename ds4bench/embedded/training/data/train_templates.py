# ruff: noqa: E501  (tables of text: one entry a line)
"""Templates of the word problems to train on (form: ``problems``). Those held out are in ``held_out_templates``."""

from __future__ import annotations

from ds4bench.embedded.training.data.problems import parse

# The first ones also give the solved examples of the few-shot prompts; those are shipped, so nothing is added here.
FEW_SHOT = parse("""
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

TEMPLATES = FEW_SHOT + parse("""
a 12-60, b 2-9 | A baker has {a} eggs. One cake takes {b} eggs. How many cakes can the baker make? | The baker can make [x=a/b] cakes.
a 2-9, b 2-9, c 2-6 | One recipe calls for {a} cups of flour and {b} cups of sugar. {N} makes it {c} times. How many cups of flour and sugar go into it? | One time takes [x=a+b] cups. / In all it takes [y=x*c] cups.
a 20-90, b 2-12, c 2-6 | A tank holds {a} gallons of water. Every hour {b} gallons flow out. How many gallons are in it after {c} hours? | In {c} hours [x=b*c] gallons flow out. / The tank then has [y=a-x] gallons.
a 3-40, b 2-12, c 2-9 | A tank has {a} gallons of water in it. A pump adds {b} gallons each minute. How many gallons will there be after {c} minutes? | The pump adds [x=b*c] gallons. / The tank will have [y=a+x] gallons.
a 20-300, b 2-12 | An empty pool takes {a} gallons. A hose brings {b} gallons a minute. After how many minutes is the pool full? | It takes [x=a/b] minutes.
a 40-99, b 2-8, c 2-6 | In the morning it is {a} degrees. The temperature falls {b} degrees every hour. What is it after {c} hours? | In {c} hours it falls [x=b*c] degrees. / It is then [y=a-x] degrees.
a 2-8, b 2-9, c 2-6 | A building has {c} entrances. Behind each one are {a} floors with {b} doors on every floor. How many doors is that? | Each entrance has [x=a*b] doors. / In all there are [y=x*c] doors.
a 2-30, b 2-30, c 2-30 | The three sides of a triangle are {a}, {b} and {c} inches. What is its perimeter? | Two sides are [x=a+b] inches. / The perimeter is [y=x+c] inches.
a 2-90 | Each side of a square is {a} feet. How many feet is it around the square? | It is [x=a*4] feet around the square.
a 2-30 | A square has sides of {a} inches. How many square inches is it? | It is [x=a*a] square inches.
a 8-200 by 4 | The way around a square is {a} yards. How long is one side? | One side is [x=a/4] yards.
a 12-300, b 2-20 | A rectangle covers {a} square feet. It is {b} feet wide. How many feet long is it? | It is [x=a/b] feet long.
a 2-12, b 2-12, c 2-6 | {N} stacks bricks {a} wide, {b} deep and {c} high. How many bricks are in the stack? | One layer has [x=a*b] bricks. / The stack has [y=x*c] bricks.
a 2-40 | How many days are there in {a} weeks? | There are [x=a*7] days.
a 2-30 | {N} is away for {a} days. How many hours is that? | It is [x=a*24] hours.
a 2-15 | A film lasts {a} hours. How many minutes is that? | It lasts [x=a*60] minutes.
a 2-40 | How many eggs are in {a} dozen? | There are [x=a*12] eggs.
a 2-20, b 2-11 | {N} buys {a} dozen eggs, and {b} of them are cracked. How many good eggs are there? | {N} buys [x=a*12] eggs. / There are [y=x-b] good eggs.
a 24-240 by 12, b 2-9 | A hen house gives {a} eggs. They go into cartons of a dozen, and each carton brings ${b}. How much do the cartons bring? | There are [x=a/12] cartons. / They bring [y=x*b] dollars.
a 2-9, b 2-4, c 5-50 | A vet sees {a} patients an hour, and each visit costs ${c}. How much does the vet take in over {b} hours? | The vet sees [x=a*b] patients. / They pay [y=x*c] dollars.
a 60-180, b 10-50 | A phone call of {a} minutes was cut by {b} minutes. How long was it then? | It was [x=a-b] minutes long.
a 5-50, b 5-50 | It takes {N} {a} minutes to walk to the bus and {b} minutes to ride to town. How many minutes does the way there and back take? | One way takes [x=a+b] minutes. / There and back it takes [y=x*2] minutes.
a 2-15, b 2-12 | {N} walks {a} blocks to work and the same way home, {b} days in a row. How many blocks is that? | A day has [x=a*2] blocks. / In {b} days it is [y=x*b] blocks.
a 10-90, b 3-60 | A ladder has {a} rungs. {N} has climbed {b} of them. How many rungs are above {him}? | There are [x=a-b] rungs above {him}.
a 5-40, b 2-30, c 2-12 | An elevator starts on floor {a}, goes up {b} floors and comes down {c}. On which floor is it? | Going up brings it to floor [x=a+b]. / Coming down brings it to floor [y=x-c].
a 20-300, b 10-150 | A farmer had {a} sacks of grain. After a wet winter only {b} were good. How many sacks were spoiled? | There were [x=a-b] spoiled sacks.
a 10-200, b 5-150, c 2-99 | A library lent out {a} books in the morning and {b} after lunch, and {c} came back. How many of these books are still out? | It lent out [x=a+b] books. / There are [y=x-c] books still out.
a 100-900, b 20-300, c 10-200 | A theater has {a} seats. {b} seats are reserved and {c} more are sold at the door. How many seats stay empty? | Together [x=b+c] seats are taken. / There are [y=a-x] empty seats.
a 3-20, b 4-20, c 2-50 | A hall has {a} rows of {b} chairs. {c} chairs are empty. How many people are seated? | The hall has [x=a*b] chairs. / There are [y=x-c] people seated.
a 2-12, b 2-8, c 2-9, d 2-8 | At a diner there are {a} tables for {b} people and {c} tables for {d} people. How many people can sit down? | The first tables seat [x=a*b] people. / The others seat [y=c*d] people. / In all [z=x+y] people can sit down.
a 20-200, b 4-8 | {a} people go on a trip in vans. A van takes {b} people. How many vans are needed? | There are [x=a/b] vans needed.
a 30-300, b 5-60, c 2-6 | Out of {a} people at a camp, {b} stay behind. The others leave in groups of {c}. How many groups leave? | There are [x=a-b] people who leave. / They form [y=x/c] groups.
a 2-15, b 2-15, c 1-9 | A quiz gives {b} points for a right answer. {N} has {a} right answers and loses {c} points for being late. What is {his} score? | The right answers give [x=a*b] points. / {His} score is [y=x-c] points.
a 5-30, b 2-9, c 2-5 | A goal counts {c} points. {N} shoots {b} goals in the first half and {a} in the second. How many points is that? | There are [x=b+a] goals. / They count [y=x*c] points.
a 40-95, b 40-95 | On two tests {N} got {a} and {b} points. How many points are the two tests worth together? | Together they are worth [x=a+b] points.
a 2-90, b 2-90 by 2 | The average of two numbers is wanted. The numbers are {a} and {b}. What is it? | The sum is [x=a+b]. / The average is [y=x/2].
a 5-90, b 5-90, c 5-90 | {N} jumped {a}, {b} and {c} inches. What is the average jump? | The first two make [x=a+b] inches. / All three make [y=x+c] inches. / The average is [z=y/3] inches.
a 3-40, b 2-6, c 2-20 | Think of {a}. Make it {b} times as large and take off {c}. Which number comes out? | First it is [x=a*b]. / Then it is [y=x-c].
a 5-90, b 5-90, c 2-6 | Add {a} and {b} and multiply the sum by {c}. Which number is that? | The sum is [x=a+b]. / The number is [y=x*c].
a 20-99, b 2-19, c 2-6 | Take {b} from {a} and divide what is left by {c}. Which number is that? | What is left is [x=a-b]. / The number is [y=x/c].
a 2-20, b 3-30 | A number plus {a} is as much as {b} times two. What is the number? | {b} times two is [x=b*2]. / The number is [y=x-a].
a 10-99, b 2-50 | When {N} adds {b} to a secret number, {he} gets {a}. What is the secret number? | It is [x=a-b].
a 2-99, b 2-99 | When {N} takes {b} away from a secret number, {he} gets {a}. What is the secret number? | It is [x=a+b].
a 4-99, b 2-9 | {b} times a secret number is {a}. What is the secret number? | It is [x=a/b].
a 5-50, b 3-20, c 2-9 | A gardener needs {a} seeds for one bed and has {c} such beds. {b} seeds do not come up. How many plants grow? | The gardener uses [x=a*c] seeds. / There are [y=x-b] plants.
a 3-40, b 2-8, c 2-8 | {a} cars are parked on each level of a garage with {b} levels, and {c} cars wait outside. How many cars is that in all? | In the garage are [x=a*b] cars. / In all there are [y=x+c] cars.
a 2-12, b 5-60 | Tickets for the zoo are ${a} a person. A group pays ${b}. How many persons are in the group? | There are [x=b/a] persons.
a 5-25, b 2-10, c 2-6, d 2-6 | An adult pays ${a} and a child ${b} for the museum. What do {c} adults and {d} children pay? | The adults pay [x=a*c] dollars. / The children pay [y=b*d] dollars. / Together they pay [z=x+y] dollars.
a 20-200, b 2-50 | The price of a {good} was ${a} and goes down by ${b}. What is the new price? | The new price is [x=a-b] dollars.
a 10-90, b 2-20, c 2-8 | A {good} is ${a}, but today it is ${b} cheaper. What do {c} of them cost today? | Today one costs [x=a-b] dollars. / Together they cost [y=x*c] dollars.
a 10-100 by 2 | A {good} for ${a} is on sale at half price. What does it cost now? | It costs [x=a/2] dollars.
a 5-60, b 6-90 | {N} bought a {good} for ${a} and later sold it, making ${b} more than it had cost. For how much did {he} sell it? | {N} sold it for [x=a+b] dollars.
a 5-40, b 45-99, c 2-6 | A trader buys a {good} at ${a} and sells it at ${b}. What is the gain on {c} of them? | The gain on one is [x=b-a] dollars. / On {c} it is [y=x*c] dollars.
a 100-900, b 20-90, c 2-6 | {N} owes ${a} and pays back ${b} a month. How much does {he} owe after {c} months? | {N} pays back [x=b*c] dollars. / {He} owes [y=a-x] dollars.
a 200-900, b 50-150, c 2-12 | A {good} costs ${a}. {N} pays ${b} at once and the rest in {c} equal payments. How large is one payment? | The rest is [x=a-b] dollars. / One payment is [y=x/c] dollars.
a 5-60, b 5-60, c 2-40 | {N} puts ${a} into a jar, {M} puts in ${b}, and together they take out ${c}. How much is in the jar? | They put in [x=a+b] dollars. / There are [y=x-c] dollars in it.
a 2-20, b 2-20 | {N} has {a} five-dollar bills and {b} one-dollar bills. How much money is that? | The five-dollar bills are [x=a*5] dollars. / In all it is [y=x+b] dollars.
a 2-40 | {N} pays with {a} ten-dollar bills. How many dollars is that? | It is [x=a*10] dollars.
a 2-15 | {N} has {a} quarters, and each quarter is 25 cents. How many cents is that? | It is [x=a*25] cents.
a 4-60 by 2, b 2-20 | Half of the {a} lamps in a hall are lit, and then {b} more are switched on. How many lamps are lit? | At first [x=a/2] lamps are lit. / Then [y=x+b] lamps are lit.
a 9-90 by 3, b 2-20 | A third of {a} workers have gone home, and {b} others are at lunch. How many workers are neither at home nor at lunch? | At home are [x=a/3] workers. / Not at home are [y=a-x] workers. / The others are [z=y-b] workers.
a 8-120 by 4 | Three of every four {animals} in a herd of {a} are brown. A quarter is white. How many are brown? | White are [x=a/4]. / Brown are [y=a-x].
a 10-100 by 10 | {N} gets 10 percent of {a} {things}, which is one in ten. How many is that? | It is [x=a/10] {things}.
a 4-80 by 2 | Fifty percent of {a} {people} wear a hat, which is every second one. How many wear no hat? | With a hat are [x=a/2]. / Without are [y=a-x].
a 3-30, b 2-9, c 2-9 | A snail crawls up {a} inches by day and slips back {b} inches by night, {c} times over. How far up is it? | In a day and a night it gains [x=a-b] inches. / After {c} times it is [y=x*c] inches up.
a 20-90, b 2-9, c 2-9 | A candle of {a} inches burns down {b} inches an hour. How tall is it {c} hours later? | It burns down [x=b*c] inches. / It is [y=a-x] inches tall.
a 3-30, b 2-9, c 2-12 | A tree is {a} feet tall and grows {b} feet a year. How many feet tall will it be after {c} years? | It grows [x=b*c] feet. / It will be [y=a+x] feet tall.
a 60-200, b 2-9, c 2-9 | {N} weighs {a} pounds and loses {b} pounds in each of {c} months. What does {he} weigh then? | {N} loses [x=b*c] pounds. / {He} weighs [y=a-x] pounds.
a 2-9, b 3-30, c 2-60 | A cart carries {a} sacks of {b} pounds and a stone of {c} pounds. How heavy is the load? | The sacks weigh [x=a*b] pounds. / The load is [y=x+c] pounds.
a 20-99, b 2-9, c 2-8 | A full crate weighs {a} pounds. Inside are {b} stones of {c} pounds. How much does the empty crate weigh? | The stones weigh [x=b*c] pounds. / The empty crate weighs [y=a-x] pounds.
a 1950-1995, b 3-40 | {N} was born in {a}. In which year was {he} {b} years old? | It was in [x=a+b].
a 20-60, b 2-19 | {M} was {b} years old when {N} was {a}. How many years older is {N}? | {N} is [x=a-b] years older.
a 20-60, b 2-20, c 2-12 | In {b} years {N} will be {a}. How old was {he} {c} years ago? | Now {N} is [x=a-b] years old. / {c} years ago {he} was [y=x-c].
a 6-40 by 2, b 2-15 | {M} is half as old as {N} was {b} years ago. {N} was {a} then. How old is {M}? | {M} is [x=a/2] years old.
a 8-60 by 2 | The ages of two twins add up to {a}. How old is each twin? | Each twin is [x=a/2] years old.
a 10-80, b 2-30 | {N} and {M} have {a} {things} between them. {b} of these are {M}'s. How many are {N}'s? | {N} has [x=a-b] {things}.
a 20-90, b 2-30, c 2-30 | {N}, {M} and {K} have {a} {things} among them. {N} has {b} and {M} has {c}. How many does {K} have? | {N} and {M} have [x=b+c] {things}. / {K} has [y=a-x] {things}.
a 2-20, b 2-20, c 2-6 | {N} and {M} pool their {a} and {b} {things} and hand them on to {c} {people}, all shares alike. How large is a share? | Together they have [x=a+b] {things}. / A share is [y=x/c] {things}.
a 2-9, b 2-9, c 2-9 | For every {a} {things} sold, a shop gives away {b} {stuff}. It gives away {b} {stuff} {c} times. How many {things} does it sell? | It sells [x=a*c] {things}.
a 2-9, b 2-9, c 2-12 | To make one {good}, {a} {color} beads and {b} {shade} beads are used. How many beads are used for {c}? | One takes [x=a+b] beads. / In all it is [y=x*c] beads.
a 2-9, b 2-9, c 3-9 | A rope ladder takes {a} feet of rope a step and {b} feet for the knots. How much rope is needed for {c} steps, with the knots once? | The steps take [x=a*c] feet. / With the knots it is [y=x+b] feet.
a 40-200, b 5-20, c 2-6 | Of a roll with {a} feet of wire, {c} pieces of {b} feet are cut off. How much wire is on the roll then? | The pieces are [x=b*c] feet. / There are [y=a-x] feet on the roll.
""")
