"""What classifiers without layers reach on the same split: a support vector machine and a random forest."""

from __future__ import annotations

from normviz.data import SupervisedData, stratified_split
from normviz.experiments.self_normalizing.recorded import FOREST, SVM
from normviz.frame import Value

__all__ = ["classical_accuracies"]

TREES = 500
PENALTIES, WIDTHS = (1.0, 10.0), (0.3, 1.0, 3.0)
"""Grid of the SVM: C, and gamma in units of scikit-learn's 1/(columns x variance)."""
FOLDS = 3
MOST_ROWS = 3_000
"""Training examples that they are fitted to: an SVM's time grows with their square."""


def classical_accuracies(data: SupervisedData, seed: int) -> dict[str, Value]:
    """Accuracies on the held-out examples, in per cent.

    The SVM has an RBF kernel; its C and gamma are the best of a grid by cross-validation on the training examples. The
    forest has 500 trees and scikit-learn's other defaults. Of more than 3,000 training examples so many are drawn, each
    class with its share.

    Args:
        data: one split.
        seed: of the forest, and of what is drawn.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    x, y, x_test, y_test = (t.cpu().numpy() for t in (data.x_train, data.y_train, data.x_test, data.y_test))
    x, x_test = x.astype("float64"), x_test.astype("float64")
    if len(y) > MOST_ROWS:
        _, drawn = stratified_split(y, MOST_ROWS, seed)
        x, y = x[drawn], y[drawn]
    scale = 1 / (x.shape[1] * x.var())
    grid = {"C": PENALTIES, "gamma": [width * scale for width in WIDTHS]}
    svm = GridSearchCV(SVC(), grid, cv=FOLDS).fit(x, y)
    forest = RandomForestClassifier(TREES, random_state=seed).fit(x, y)
    return {SVM: 100 * float(svm.score(x_test, y_test)), FOREST: 100 * float(forest.score(x_test, y_test))}
