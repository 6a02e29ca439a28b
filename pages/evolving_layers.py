"""What do normalization and activation look like when a search, not a person, designs them together?"""

from normviz.experiments.evolving_layers.norm_responses import norm_response_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_images_widget
from normviz.ui.panels.evolving_layers import found_layer_panel

INTRO = r"""
A convolution is usually followed by two layers: a normalization, then an activation such as ReLU. Both were invented
by people, one after the other. EvoNorm asks what comes out when *one* layer, from the convolution's output to the
next convolution's input, is put together from low-level mathematics by **evolution**: addition, multiplication,
maximum, square roots, means and variances over batch, image or channels.

The answer is a pair of families. **B layers** use the variance over the whole batch, like batch norm; **S layers**
use each image alone, like group norm. Most of them subtract no mean, and have no activation function in them:
dividing by the right thing bends the curve.

Two things can be run here. *Published layers* trains them beside the usual ones. *The search* starts from nothing,
proposes random graphs of operations, throws away those that cannot work, and lets the rest evolve.
"""

READING = r"""
**Published layers.** Large batches are split over workers in practice, and each worker normalizes with the images it
has. *Accuracy against images per worker* shows what that costs: every point is a network trained on the *same* images
in every step; only the number of images that a statistic is taken over differs. S layers cannot notice. Batch norm at 2
images per worker divides by a variance estimated from very little, and at test time uses running averages of such
estimates. In the preset *The batch shrinks* a small number is a small batch, with more updates and a smaller learning
rate, as in the paper; there S layers may lose too. Its data are MNIST-1D: ten shapes of 40 values, moved, stretched and
in noise, which are harder to tell apart than the digits.

**The search.** Every candidate goes through the paper's tests, cheapest first: does the graph use its input at all?
After a short training on three small networks, is it better than guessing on *each*? And the stability test: the
weights are pushed uphill in the *size of the gradient*; a layer whose gradient can be driven past $10^8$ is rejected,
however well it learned. What passes enters a population that ages. Evolution takes a few members at random, keeps one
that no other dominates (Pareto: better on some network, worse on none), changes one node, and proposes the result.
Random search, with the same budget, shows what the selection is worth. After the last candidate the two best of each
search are trained longer, the better one is kept, and it is tried in a network that no candidate was judged on.

**Beyond the presets.** In *Published layers*, choose all sizes from 2 to 128, or the ResNet. Raise the number of
candidates. When a layer is found, its button trains it against the published ones.

**What is not tested here.** ImageNet, Mask R-CNN and BigGAN, and the search's real size (thousands of workers for two
days). Constants of the search that the paper's sources did not confirm are marked in its code.
"""

EXACT = Exact(
    "One value, exactly",
    r"""
Take one pixel of one channel and move its value $x$ while the statistics around it stay as they are. Batch norm with
ReLU answers with a kink. The B layers divide by the *larger* of two deviations, one of which contains $x$ itself: for
large $x$ the answer flattens. The S layers multiply by a sigmoid first: a swish, scaled. Move the trained $v_1$
through zero, or make the image's deviation smaller than the batch's.
""",
    lambda: {"responses": norm_response_figure()},
)

MATHS = (
    Maths(
        "B layers",
        r"""
Per channel, with $s^2$ the biased variance and $\mu$ the mean over the indices below:

$$s_B = \sqrt{s^2_{n,h,w}(x)+\epsilon}$$

$$s_I = \sqrt{s^2_{h,w}(x)+\epsilon} \qquad r_I = \sqrt{\mu_{h,w}(x^2)+\epsilon}$$

$$\text{B0} = \gamma\,\frac{x}{\max(s_B,\; v_1 x + s_I)} + \beta$$

B1 has $(x+1)\,r_I$ and B2 has $r_I - x$ as the second of the two. At test time only $s_B$ is replaced by its running
value; what depends on the image is computed from it.
""",
        "norms/evonorm.py",
        ("_EvoNorm2dB.formula", "EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2"),
        "the code of the published layers",
    ),
    Maths(
        "S layers",
        r"""
With $\sigma$ the logistic function and statistics over one image and a group of channels:

$$\text{S0} = \gamma\,\frac{x\,\sigma(v_1 x)}{\sqrt{s^2_{h,w,c/g}(x)+\epsilon}} + \beta$$

S1 is S0 with $v_1 = 1$; S2 divides by the root mean square $\sqrt{\mu_{h,w,c/g}(x^2)+\epsilon}$ instead. No batch,
hence nothing to remember: training and test time are the same.
""",
        "norms/evonorm.py",
        ("_EvoNorm2dS.forward", "EvoNorm2dS0", "EvoNorm2dS1", "EvoNorm2dS2"),
        "the code of the published layers",
    ),
    Maths(
        "Graphs",
        r"""
A layer is a list of nodes; each names an operation and the smaller numbers it reads.

0 is $x$, 1 is zeros, 2 is $v_0$, 3 is $v_1$ (both trained per channel), and 4, 5, … are the nodes.

12 element-wise operations and 12 aggregations: $\mu$, $\sqrt{\mu(x^2)+\epsilon}$, $\sqrt{s^2+\epsilon}$, each over four
index sets. The last node is the output, followed by $\gamma$ and $\beta$. A random graph draws every operation and
every input uniformly; a mutation draws one node anew. Nodes that the output does not reach cost nothing and may become
useful later.
""",
        "norms/_evonorm_graph.py",
        ("Graph.random", "Graph.mutate", "_random_node"),
        "the code of the search",
    ),
    Maths(
        "Rejection",
        r"""
**Quality**: train each anchor network for a few steps; reject below twice the chance of guessing on any of them, or
when a number is not finite.

**Stability**: with the gradient norm $n(\theta) = \lVert\nabla_\theta \mathcal{L}\rVert_2$, climb

$$\theta \leftarrow \theta + \eta\,\nabla_\theta\, n(\theta)$$

and reject as soon as $n > 10^8$. This needs second derivatives of every operation.
""",
        "norms/_evonorm_rejection.py",
        ("train_on_anchors", "stability_steps"),
        "the code of the search",
    ),
    Maths(
        "Evolution",
        r"""
$a$ dominates $b$ if it is at least as good on every network and better on one. A tournament draws a small part of the
population and takes a random member of its Pareto front, so that a layer excellent on one architecture and not terrible
elsewhere survives. The winner is mutated, and if the result passes all tests it joins the population, whose oldest
member leaves. With probability *exploration* a random graph is proposed instead.
""",
        "norms/_evonorm_evolution.py",
        ("EvolutionSearch.examine", "EvolutionSearch._propose", "EvolutionSearch._tournament"),
        "the code of the search",
    ),
)

experiment_page(
    "evolving-layers",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_images_widget},
    exact=EXACT,
    panel=found_layer_panel,
)
