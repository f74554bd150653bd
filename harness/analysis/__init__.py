"""What a finished study says: DataFrame in, DataFrame out; nothing here draws, prints or trains.

`load` reads the trial directories, `pareto` finds the front, `compare` weighs distillation against plain training,
`importance` asks which knobs mattered, `interactions` which work together (by the `surrogate` of `terms`),
`indifference` how far they may be moved; `knobs` is all three. A new table is a function in the file of its concern.

Of what `confirm` measured on the test split: `confirmed` compares distillation with its controls, `two_level` says
which configuration to take, `calibration` how far its confidence is right, `audit` what choosing by test would have
claimed.
`statistics` and `intervals` are what these are made of; `best_of` compares searches of unlike size.
"""
