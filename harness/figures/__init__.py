"""DataFrame in, `matplotlib.figure.Figure` out; one file a family of figures, and never pyplot's global state.

Every figure is drawn under `style.paper()` and states in its own caption line how many trials and seeds it shows and
what its bars mean. A new figure is a function here that takes what it draws, and a line in `harness.report.drawings`.
"""

from harness.figures.calibration import class_gain, fit_panel, reliability_diagram
from harness.figures.confirmed import confirmed_accuracy, confirmed_gain, selection_audit
from harness.figures.fidelity import fidelity_against_accuracy
from harness.figures.gain import alpha_temperature, gain_by_width
from harness.figures.knobs import best_by_width, form_by_width, importance_by_width, surrogate_surfaces
from harness.figures.language import bits_against_size
from harness.figures.learning import learning_curves
from harness.figures.options import gain_by_option, options_compared, pull_by_form
from harness.figures.search import expected_best_of, hypervolume_growth, importance_bars
from harness.figures.searches import searches_gain
from harness.figures.size import Teacher, accuracy_against_size
from harness.figures.style import HUES, note_of, paper, without_note

__all__ = [
    "HUES",
    "Teacher",
    "accuracy_against_size",
    "alpha_temperature",
    "best_by_width",
    "bits_against_size",
    "class_gain",
    "confirmed_accuracy",
    "confirmed_gain",
    "expected_best_of",
    "fidelity_against_accuracy",
    "fit_panel",
    "form_by_width",
    "gain_by_option",
    "gain_by_width",
    "hypervolume_growth",
    "importance_bars",
    "importance_by_width",
    "learning_curves",
    "note_of",
    "options_compared",
    "paper",
    "pull_by_form",
    "reliability_diagram",
    "searches_gain",
    "selection_audit",
    "surrogate_surfaces",
    "without_note",
]
