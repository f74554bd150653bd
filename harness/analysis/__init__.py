"""What a finished study says: DataFrame in, DataFrame out; nothing here draws, prints or trains.

`load` reads the trial directories, `pareto` finds the front, `compare` weighs distillation against plain training,
`importance` asks which knobs mattered. A new table is a function in the file of its concern.
"""
