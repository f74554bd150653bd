"""A study's tables, figures and page, from what lies on disk alone: no training, no MLflow, no Optuna storage.

`build.write` makes it, `closing.closing_table` is what a terminal shows of it. A new figure is a line in
`drawings.drawings`, a new part of the page a function that yields blocks and its name in `page.SECTIONS`.
"""
