"""How orthogonal must a map between two models be to keep old features usable?"""

from normviz.experiments.compatible_representations.closed_forms import penalty_figure, ring_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
A search engine for pictures keeps a **gallery**: the features of every picture, computed once by a model. A question is
a picture too; its features are compared with those of the gallery by cosine. Then a better model arrives. Its features
cannot be compared with the old ones: two networks, trained apart, use different axes. Computing the whole gallery anew
(**backfilling**) is expensive, and often the pictures are gone.

A map on the features helps, without touching either model. The **backward map** $B$ brings new features into the old
space, so that new questions can ask the old gallery. The **forward map** $F$ updates old features without their
pictures. How free should $B$ be?

- **Strict**: an orthogonal matrix. It keeps all distances of the new model, but can only turn and mirror.
- **Affine**: any matrix and an offset. It fits a new task well, and deforms what the new model knew.
- **λ-orthogonality**: an affine map whose weight $W$ may leave the orthogonal matrices by a distance of about
  $\lambda$: $\delta = \lVert W^\top W - I\rVert_F$. Its exact formula was not at hand: the term here is **our reading
  of the paper's description**, and so are the forms of the three losses.

Here the models are two small networks that learn digits. The old one has seen eight of ten classes. Both are fixed; the
maps learn on the features of a new task: the same digits, turned by 90°. The digits have 8 x 8 pixels, or are those of
MNIST-1D or MNIST if these are chosen. **mAP**, mean average precision, says how far
in front the right digits stand when the gallery is sorted by similarity.
"""

READING = r"""
**How to read it.** Step 0 is without any map: features as they are. The first step begins with the best rotation,
which is known in closed form (Procrustes), and training goes on from there. Move the slider of the moment back to 0 and
forward again. The first picture draws features in the plane in which the old model's class means differ most: dots are
old features, small digits are new features of the same pictures, a line joins the centres of a class, and the large
digit stands at the new centre. In *The same digits* the lines become short; with turned digits both models are unsure,
and so are the features.

**The band.** δ ≤ λ keeps every singular value between √(1−λ) and √(1+λ): no distance is stretched or shrunk by more
than that. The shaded bands are these limits. With the gated form the maps stay well inside, since its pull begins below
λ; with the hinge (*A hard threshold*) they may go as far as λ. The free map has no band: on turned digits its δ grows
far beyond every λ here. In *More charts*, one band is yours to drag.

**Stability against plasticity.** To the right: new questions find more in the old gallery, on turned digits. Up: the
new model still finds its upright digits, on which no map was fitted. Strict is at the level of the new model without a
map, exactly. Along λ the map gains on the new task and gives up some of the old one; affine goes farthest in both. λ is
a threshold, not a weight: what compares between widths is λ/√d.

**The matrix.** Rows ask, columns answer. The criterion of compatibility: *new* asks *old* must be better than *old*
asks *old*. No model was trained on turned digits, and there it depends on the seed; look at upright ones, where the new
model is clearly better. In *An old model too weak* it cannot be expected: five classes have no place of their own in
the old space.

**A part of the gallery.** The pictures whose updated features are farthest from their class mean are extracted anew
first. The dashed line takes them at random. The curve begins at the gallery that $F$ updated. $F$ is learned from a
random start within few steps, so an updated gallery is not always better than the old one as it is.

**What is missing.** The paper's numbers come from large image models; none could be quoted here. FCT runs without its
side information and FastFill without the term that needs the new model's classifier. Steps and learning rates are ours.
"""

EXACT = Exact(
    "Drag λ",
    r"""
The charts follow their sliders while you drag; nothing is run. In the first, a map of the plane takes the unit circle
to an ellipse. If its distance δ is at most λ, the ellipse lies inside the ring, whichever way the map turns it. The
reverse does not hold: an ellipse inside the ring may have δ above λ.

The second chart: how strongly each form of the term punishes a distance. λ says where it begins.
""",
    lambda: {"ring": ring_figure(), "penalty": penalty_figure()},
)

MATHS = (
    Maths(
        "Distance and band",
        r"""
$$\delta(W) = \lVert W^\top W - I \rVert_F = \sqrt{\textstyle\sum_i (s_i^2-1)^2}$$

over the singular values $s_i$ (the smaller Gram matrix if $W$ is not square). So $\delta \le \lambda$ implies
$s_i \in [\sqrt{\max(0, 1-\lambda)},\ \sqrt{1+\lambda}]$. A rotation has $\delta = 0$: the term pulls to *any*
orthogonal matrix, not to $I$. A uniform stretch $s$ has $\delta = \sqrt d\,|s^2-1|$: the scale of λ grows with
$\sqrt d$.
""",
        "adapters/orthogonality.py",
        ("orthogonality_distance", "singular_value_band"),
    ),
    Maths(
        "The term of λ",
        r"""
$$L_\lambda(W) = \sigma\bigl(\beta(\delta-\lambda)\bigr)\,\delta, \qquad \beta = \max(1, 10/\lambda)$$

Far below λ the gate is closed and $W$ is free; far above it acts as δ with slope 1. Also here: the hinge
$\max(0, \delta-\lambda)$, softplus, and classical soft orthogonality $\delta^2$. Our reading of the paper's
description.
""",
        "adapters/orthogonality.py",
        ("LambdaOrthogonalityLoss.forward", "LambdaOrthogonalityLoss.steepness"),
    ),
    Maths(
        "The closed form to start from",
        r"""
$$\arg\min_{W^\top W = I}\ \lVert H_{\text{new}} W^\top - H_{\text{old}}\rVert_F = P R^\top, \qquad H_{\text{old}}^\top
H_{\text{new}} = P S R^\top$$
""",
        "adapters/orthogonality.py",
        ("procrustes_orthogonal",),
    ),
    Maths(
        "The strict map",
        r"""
$$W = W_0\, e^{A}, \qquad A^\top = -A$$

Whatever an optimizer does to $A$, $W$ is orthogonal. There is no bias: it would change angles.
""",
        "adapters/feature_maps.py",
        ("OrthogonalAdapter.weight", "OrthogonalAdapter.forward"),
    ),
    Maths(
        "What the maps learn",
        r"""
With $z = B(h_{\text{new}})$ and $u = F(h_{\text{old}})$:

$$L = w_F\,\overline{(u-z)^2} + w_B\,\overline{(z-h_{\text{old}})^2} + w_C L_C + w_\lambda L_\lambda(W_B)$$

$L_C$ is the supervised contrastive loss over the union of $z$, $u$ and $h_{\text{old}}$: features of one class should
point in one direction, whichever model they come from.
""",
        "adapters/compatibility_losses.py",
        ("CompatibilityLoss.forward", "CrossModelSupConLoss.forward"),
    ),
    Maths(
        "How it is judged",
        r"""
For each question the gallery is sorted by cosine; average precision is the mean, over the right items, of the share of
right ones among those up to them. The question itself is left out. **Compatibility**: $M(\text{new}/\text{old}) >
M(\text{old}/\text{old})$.
""",
        "adapters/retrieval.py",
        ("retrieval_metrics", "compatibility_matrix"),
    ),
    Maths(
        "Partial backfilling",
        r"""
Order: largest $1 - \cos(u_i, \bar u_{y_i})$ first, with $\bar u_y$ the mean direction of class $y$. The curve is mAP
against the share that is extracted anew; its area summarises it.
""",
        "adapters/backfilling.py",
        ("backfill_order", "backfill_curve"),
    ),
)

experiment_page("compatible-representations", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
